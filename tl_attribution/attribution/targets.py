"""Targets of attribution: tokens, differences of tokens, directions, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Union, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.sites import LOGITS, RESIDUAL, ReadSite
from tl_attribution.hosts.snapshot import Snapshot
from tl_attribution.replacement.local_model import Readouts
from tl_attribution.replacement.prompt_run import PromptRun


@dataclass(frozen=True)
class TokenTarget:
    """A token's logit, less the mean logit, after ``position`` (−1: the last). ``weight`` defaults
    to the token's probability there."""

    token: str | int
    position: int = -1
    weight: float | None = None


@dataclass(frozen=True)
class DifferenceTarget:
    """The logit of ``token`` minus the logit of ``minus``."""

    token: str | int
    minus: str | int
    position: int = -1
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    """``vector`` · residual stream before block ``layer`` (None: the final residual stream)."""

    vector: Float[Tensor, " d_model"]
    layer: int | None = None
    position: int = -1
    weight: float = 1.0
    label: str = "direction"


@dataclass(frozen=True)
class FeatureTarget:
    """The pre-activation of one active feature."""

    layer: int
    position: int
    index: int
    weight: float = 1.0


Target = Union[str, int, TokenTarget, DifferenceTarget, DirectionTarget, FeatureTarget]  # noqa: UP007  # evaluated on 3.10


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """A target that is not a feature, as a readout. ``index``: token id, or a number past the
    vocabulary for what is not a token."""

    label: str
    index: int
    position: int
    weight: float
    site: ReadSite
    layer: int
    vector: Float[Tensor, " d_model"]
    bias: float


class _Resolver:
    def __init__(self, run: PromptRun) -> None:
        self.host, self.snapshot = run.host, run.snapshot
        self.mean = self.snapshot.W_U.mean(1)
        self.probabilities = self.snapshot.logits.softmax(-1)
        self.n_positions, self.n_layers = run.n_positions, run.n_layers

    def position(self, position: int) -> int:
        n = self.n_positions
        if not -n <= position < n:
            raise InputError(f"target position {position} is outside the prompt's {n} tokens")
        return position % n

    def token(self, token: str | int) -> int:
        if isinstance(token, int):
            if not 0 <= token < self.host.d_vocab:
                raise InputError(
                    f"target token id {token} is outside the vocabulary of {self.host.d_vocab}"
                )
            return token
        ids = self.host.tokenize(token, with_bos=False)
        if len(ids) != 1:
            parts = ", ".join(repr(t) for t in self.host.token_strings(ids))
            hint = "" if token.startswith(" ") else f"; did you mean {' ' + token!r}?"
            raise InputError(
                f"target {token!r} is {len(ids)} tokens ({parts}); a target is one token{hint}"
            )
        return ids[0]

    def unembedding(self, token: int) -> tuple[Tensor, float]:
        bias = self.snapshot.b_U
        return self.snapshot.W_U[:, token], 0.0 if bias is None else float(bias[token])

    def text(self, token: int) -> str:
        return self.host.token_strings([token])[0]

    def logit(self, target: TokenTarget) -> ResolvedTarget:
        token, position = self.token(target.token), self.position(target.position)
        vector, bias = self.unembedding(token)
        mean_bias = 0.0 if self.snapshot.b_U is None else float(self.snapshot.b_U.mean())
        weight = target.weight
        if weight is None:
            weight = float(self.probabilities[position, token])
        vector, bias = vector - self.mean, bias - mean_bias
        return ResolvedTarget(
            self.text(token), token, position, weight, LOGITS, self.n_layers, vector, bias
        )

    def difference(self, target: DifferenceTarget, order: int) -> ResolvedTarget:
        token, minus = self.token(target.token), self.token(target.minus)
        (u, a), (v, b) = self.unembedding(token), self.unembedding(minus)
        label = f"{self.text(token)} − {self.text(minus)}"
        position, index = self.position(target.position), self.host.d_vocab + order
        return ResolvedTarget(
            label, index, position, target.weight, LOGITS, self.n_layers, u - v, a - b
        )

    def direction(self, target: DirectionTarget, order: int) -> ResolvedTarget:
        layer = self.n_layers if target.layer is None else target.layer
        if not 0 <= layer <= self.n_layers:
            raise InputError(f"target layer {layer} is outside the model's {self.n_layers} layers")
        vector = target.vector.to(self.snapshot.W_U)
        if vector.shape != (self.host.d_model,) or not vector.isfinite().all():
            raise InputError(
                f"a direction is {self.host.d_model} finite numbers, got shape "
                f"{tuple(vector.shape)}"
            )
        position, index = self.position(target.position), self.host.d_vocab + order
        return ResolvedTarget(
            target.label, index, position, target.weight, RESIDUAL, layer, vector, 0.0
        )


def resolve_targets(
    run: PromptRun, targets: Sequence[Target] | Target
) -> tuple[list[ResolvedTarget], list[FeatureTarget]]:
    """Readouts for all targets that are not features, and the feature targets.

    Raises InputError for a string of several tokens (naming them), anything out of range, a weight
    that is not positive, or no target at all.
    """
    single = isinstance(targets, get_args(Target))
    sequence: Sequence[Target] = [targets] if single else targets  # type: ignore[list-item]  # as checked
    if not sequence:
        raise InputError("targets is empty; give tokens, or None for the salient logits")
    resolver = _Resolver(run)
    readouts: list[ResolvedTarget] = []
    features: list[FeatureTarget] = []
    for order, target in enumerate(sequence):
        if isinstance(target, (str, int)):
            target = TokenTarget(target)
        _check_weight(target)
        match target:
            case TokenTarget():
                readouts.append(resolver.logit(target))
            case DifferenceTarget():
                readouts.append(resolver.difference(target, order))
            case DirectionTarget():
                readouts.append(resolver.direction(target, order))
            case FeatureTarget():
                features.append(replace(target, position=resolver.position(target.position)))
    return readouts, features


def _check_weight(target: TokenTarget | DifferenceTarget | DirectionTarget | FeatureTarget) -> None:
    if not isinstance(target, get_args(Target)):
        raise InputError(
            f"expected a target, got {target!r}; give a token string, a token id or a *Target"
        )
    weight = target.weight
    if weight is not None and not 0 < weight < float("inf"):
        raise InputError(f"a target's weight must be positive, got {weight}")


def salient_tokens(snapshot: Snapshot, max_logits: int, logit_mass: float) -> list[Target]:
    """The most likely next tokens: the fewest that hold ``logit_mass``, at most ``max_logits``.

    Raises InputError for ``max_logits`` below 1 or a mass outside 0..1.
    """
    if max_logits < 1:
        raise InputError(f"max_logits must be at least 1, got {max_logits}")
    if not 0 < logit_mass <= 1:
        raise InputError(f"logit_mass must be above 0 and at most 1, got {logit_mass}")
    probabilities = snapshot.logits[-1].softmax(-1)
    top = probabilities.topk(min(max_logits, len(probabilities)))
    before = top.values.cumsum(0) - top.values
    return [int(token) for token in top.indices[before < logit_mass]]


def target_readouts(
    targets: list[ResolvedTarget], site: ReadSite
) -> tuple[list[int], Readouts | None]:
    """Which of the targets read at ``site``, and those as readouts."""
    rows = [i for i, target in enumerate(targets) if target.site == site]
    if not rows:
        return rows, None
    at_site = [targets[i] for i in rows]
    vectors = torch.stack([target.vector for target in at_site])

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(target, name) for target in at_site], device=vectors.device)

    bias = column("bias").to(vectors)
    return rows, Readouts(site, column("layer"), column("position"), vectors, bias)
