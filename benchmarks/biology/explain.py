"""What a feature tells: which of several hypotheses about a table explains its activations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = 0.5
"""A feature of whose variance every hypothesis explains less is not explained."""
NEARLY = 0.9
"""The simplest hypothesis counts that explains so much of what the best explains."""
OTHER = "none of these"


def explained(
    values: Float[Tensor, "prompt feature"], labels: Int[Tensor, " prompt"]
) -> Float[Tensor, " feature"]:
    """The share of each feature's variance that is between the classes: 1 if its activation is the
    same wherever the class is."""
    sums = torch.zeros(int(labels.max()) + 1, values.shape[1]).index_add_(0, labels, values)
    means = sums / torch.bincount(labels).clamp(min=1)[:, None]
    rest = ((values - means[labels]) ** 2).sum(0)
    return 1 - rest / ((values - values.mean(0)) ** 2).sum(0).clamp(min=1e-9)


def simplest(
    values: Float[Tensor, "prompt feature"], hypotheses: Mapping[str, Int[Tensor, " prompt"]]
) -> tuple[list[str], Float[Tensor, "hypothesis feature"]]:
    """For each feature the hypothesis with the fewest classes that explains nearly as much as the
    best, and what each hypothesis explains, in their order."""
    found = torch.stack([explained(values, labels) for labels in hypotheses.values()])
    best = found.amax(0)
    order = sorted(hypotheses, key=lambda name: len(hypotheses[name].unique()))
    rows = {name: row for row, name in enumerate(hypotheses)}
    names = []
    for feature in range(values.shape[1]):
        enough = NEARLY * best[feature]
        name = next(n for n in order if found[rows[n], feature] >= enough)
        names.append(name if best[feature] >= LEAST else OTHER)
    return names, found
