"""What a graph explains: tokens, differences of tokens, directions, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.sites import LOGITS, RESIDUAL, ReadSite
from tl_attribution.hosts.snapshot import Snapshot
from tl_attribution.replacement.local_model import Readouts


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
    """A target that is not a feature, as a readout. ``index``: token id, or one past the vocabulary
    for what is no token."""

    label: str
    index: int
    position: int
    weight: float
    site: ReadSite
    layer: int
    vector: Float[Tensor, " d_model"]
    bias: float


class _Resolver:
    def __init__(self, host: Host, snapshot: Snapshot) -> None:
        self.host, self.snapshot = host, snapshot
        self.mean = snapshot.W_U.mean(1)
        self.probabilities = snapshot.logits.softmax(-1)

    def position(self, position: int) -> int:
        n = len(self.snapshot.token_ids)
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
        centre = 0.0 if self.snapshot.b_U is None else float(self.snapshot.b_U.mean())
        weight = target.weight
        if weight is None:
            weight = float(self.probabilities[position, token])
        n_layers = len(self.snapshot.blocks)
        vector, bias = vector - self.mean, bias - centre
        return ResolvedTarget(
            self.text(token), token, position, weight, LOGITS, n_layers, vector, bias
        )

    def difference(self, target: DifferenceTarget, order: int) -> ResolvedTarget:
        one, other = self.token(target.token), self.token(target.minus)
        (u, a), (v, b) = self.unembedding(one), self.unembedding(other)
        label = f"{self.text(one)} − {self.text(other)}"
        position, n_layers = self.position(target.position), len(self.snapshot.blocks)
        index = self.host.d_vocab + order
        return ResolvedTarget(label, index, position, target.weight, LOGITS, n_layers, u - v, a - b)

    def direction(self, target: DirectionTarget, order: int) -> ResolvedTarget:
        n_layers = len(self.snapshot.blocks)
        layer = n_layers if target.layer is None else target.layer
        if not 0 <= layer <= n_layers:
            raise InputError(f"target layer {layer} is outside the model's {n_layers} layers")
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


def resolve(
    host: Host, snapshot: Snapshot, targets: Sequence[Target] | Target
) -> tuple[list[ResolvedTarget], list[FeatureTarget]]:
    """Readouts for all targets that are not features, and the feature targets.

    Raises InputError for a string of several tokens (naming them), anything out of range, a weight
    that is not positive, or no target at all.
    """
    one = (str, int, TokenTarget, DifferenceTarget, DirectionTarget, FeatureTarget)
    every: Sequence[Target] = [targets] if isinstance(targets, one) else targets
    if not every:
        raise InputError("targets is empty; give tokens, or None for the salient logits")
    resolver, found, features = _Resolver(host, snapshot), [], []
    for order, target in enumerate(every):
        if isinstance(target, (str, int)):
            target = TokenTarget(target)
        weight = target.weight
        if weight is not None and not 0 < weight < float("inf"):
            raise InputError(f"a target's weight must be positive, got {weight}")
        match target:
            case TokenTarget():
                found.append(resolver.logit(target))
            case DifferenceTarget():
                found.append(resolver.difference(target, order))
            case DirectionTarget():
                found.append(resolver.direction(target, order))
            case FeatureTarget():
                resolved = resolver.position(target.position)
                features.append(FeatureTarget(target.layer, resolved, target.index, target.weight))
            case _:
                raise InputError(
                    f"{target!r} is no target; give a token string, an id or a *Target"
                )
    return found, features


def salient(snapshot: Snapshot, max_logits: int, logit_mass: float) -> list[Target]:
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


def readouts(resolved: list[ResolvedTarget], site: ReadSite) -> tuple[list[int], Readouts | None]:
    """Which of the targets read at ``site``, and those as readouts."""
    rows = [i for i, r in enumerate(resolved) if r.site == site]
    if not rows:
        return rows, None
    chosen = [resolved[i] for i in rows]
    vectors = torch.stack([r.vector for r in chosen])

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(r, name) for r in chosen], device=vectors.device)

    return rows, Readouts(
        site, column("layer"), column("position"), vectors, column("bias").to(vectors)
    )
