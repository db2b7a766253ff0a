"""What is to be explained on one prompt: the local replacement model and its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.attribution.answers import ExplainedAnswer
from tl_attribution.attribution.targets import (
    FeatureTarget,
    ResolvedTarget,
    Target,
    resolve_targets,
    salient_tokens,
)
from tl_attribution.errors import InputError
from tl_attribution.replacement.local_model import LocalReplacementModel, build_local_model
from tl_attribution.replacement.prompt_run import PromptRun


@dataclass(frozen=True, eq=False)
class AttributionProblem:
    """A local replacement model, the targets that are not features (``logits``), and the weight of
    every active feature as a target, zero for most. ``answer``: whose tokens the targets are."""

    local: LocalReplacementModel
    logits: list[ResolvedTarget]
    feature_weights: Float[Tensor, " active"]
    answer: ExplainedAnswer | None = None

    @property
    def run(self) -> PromptRun:
        """The prompt's run."""
        return self.local.run

    @property
    def logit_weights(self) -> Float[Tensor, " logit"]:
        """Weights of ``logits``."""
        return torch.tensor([target.weight for target in self.logits]).to(self.local.errors)

    @property
    def n_nodes(self) -> int:
        """Nodes of the graph of all active features."""
        return self.local.n_sources + len(self.logits)


def pose_problem(
    run: PromptRun,
    targets: Sequence[Target] | Target | None,
    max_logits: int,
    logit_mass: float,
    answer: ExplainedAnswer | None = None,
) -> AttributionProblem:
    """Resolve the targets and build the local replacement model that they see. Raises InputError
    for targets that cannot be explained."""
    if answer is not None:
        targets = answer.targets
    elif targets is None:
        targets = salient_tokens(run.snapshot, max_logits, logit_mass)
    logits, features = resolve_targets(run, targets)
    last = max([target.position for target in (*logits, *features)])
    local = build_local_model(run, last + 1)
    local, weights = _feature_targets(local, features, keep_all=bool(logits))
    return AttributionProblem(local, logits, weights, answer)


def _feature_targets(
    local: LocalReplacementModel, targets: list[FeatureTarget], *, keep_all: bool
) -> tuple[LocalReplacementModel, Float[Tensor, " active"]]:
    """Weights of the features to explain; unless ``keep_all``, features that cannot cause any of
    them are left out of the model."""
    features = local.features
    weights = torch.zeros_like(features.activation)
    for target in targets:
        match = (features.layer == target.layer) & (features.position == target.position)
        match &= features.index == target.index
        if not match.any():
            raise InputError(
                f"feature (layer {target.layer}, position {target.position}, index {target.index}) "
                "is not active on this prompt, or lies in the prefix; tla.features lists the "
                "active ones"
            )
        weights[match] += target.weight
    if keep_all:
        return local, weights
    keep = (features.layer < max(target.layer for target in targets)) | (weights > 0)
    return replace(local, features=features.select(keep)), weights[keep]
