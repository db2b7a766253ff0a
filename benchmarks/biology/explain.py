"""Which of several hypotheses about a table explains the activations of a feature."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_EXPLAINED = 0.5
"""A feature is not explained if every hypothesis explains less of its variance than this."""
NEAR_BEST = 0.9
"""The simplest hypothesis is taken that explains this share of what the best explains."""
OTHER = "none of these"


def explained(
    values: Float[Tensor, "prompt feature"], labels: Int[Tensor, " prompt"]
) -> Float[Tensor, " feature"]:
    """Share of each feature's variance between classes: 1 if its activation depends on the class
    alone."""
    sums = torch.zeros(int(labels.max()) + 1, values.shape[1]).index_add_(0, labels, values)
    means = sums / torch.bincount(labels).clamp(min=1)[:, None]
    rest = ((values - means[labels]) ** 2).sum(0)
    return 1 - rest / ((values - values.mean(0)) ** 2).sum(0).clamp(min=1e-9)


def simplest(
    values: Float[Tensor, "prompt feature"], hypotheses: Mapping[str, Int[Tensor, " prompt"]]
) -> tuple[list[str], Float[Tensor, "hypothesis feature"]]:
    """For each feature the hypothesis with the fewest classes that explains nearly as much as the
    best, and what each hypothesis explains, in their order."""
    shares = torch.stack([explained(values, labels) for labels in hypotheses.values()])
    best = shares.amax(0)
    order = sorted(hypotheses, key=lambda name: len(hypotheses[name].unique()))
    rows = {name: row for row, name in enumerate(hypotheses)}
    names = []
    for feature in range(values.shape[1]):
        enough = NEAR_BEST * best[feature]
        name = next(n for n in order if shares[rows[n], feature] >= enough)
        names.append(name if best[feature] >= MIN_EXPLAINED else OTHER)
    return names, shares
