"""Which features become nodes of a partial graph, and what that leaves out, exactly.

Influence flows from the targets down; a feature's influence is final once all targets above it have
their rows. Influence that arrives at a feature without a row stays there: that is what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.graph import Certificate
from tl_attribution.graph.influence import normalise
from tl_attribution.replacement.local import LocalReplacementModel, Readouts, Rows

ROUNDS = 8
"""In how many rounds the ``max_features`` most influential features are found."""


@runtime_checkable
class Engine(Protocol):
    """Transport or oracle."""

    local: LocalReplacementModel

    def rows(
        self,
        readouts: Readouts,
        *,
        out: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rows:
        """Edges into every readout."""
        ...


@dataclass(frozen=True, eq=False)
class Expanded:
    """Features with rows: ``chosen`` are rows of ``local.features``, ascending."""

    chosen: Int[Tensor, " expanded"]
    rows: Rows
    certificate: Certificate


class Selection:
    """Grows the set of expanded features of one prompt."""

    def __init__(
        self,
        engine: Engine,
        top: Rows,
        top_weights: Float[Tensor, " target"],
        feature_weights: Float[Tensor, " active"],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.engine, self.local, self.progress = engine, engine.local, progress
        self.top, self.top_weights, self.feature_weights = top, top_weights, feature_weights
        self.chosen = torch.zeros(0, dtype=torch.long)
        self.edges = top.edges.new_zeros(0, top.edges.shape[1])
        self.constant = top.constant.new_zeros(0)
        self._normalised = self.edges

    def expand(self, rows: Int[Tensor, " new"]) -> None:
        """Compute the rows of these features."""
        if not len(rows):
            return
        made = self.engine.rows(feature_readouts(self.local, rows))
        self.chosen = torch.cat([self.chosen, rows])
        self.edges = torch.cat([self.edges, made.edges])
        self.constant = torch.cat([self.constant, made.constant])
        self._normalised = torch.cat([self._normalised, normalise(made.edges)])
        if self.progress is not None:
            self.progress(len(self.chosen), len(self.local.features))

    def influence(self) -> Float[Tensor, " source"]:
        """Influence of every source, given the rows so far."""
        total = self.top_weights @ normalise(self.top.edges)
        total[: len(self.feature_weights)] += self.feature_weights
        arriving = total[self.chosen]
        while arriving.any():
            flow = arriving @ self._normalised
            total = total + flow
            arriving = flow[self.chosen]
        return total

    def by_coverage(self, coverage: float) -> None:
        """Top down: at each layer the fewest features that hold ``coverage`` of its influence."""
        for layer in reversed(range(self.local.n_layers)):
            rows = (self.local.features.layer == layer).nonzero().flatten()
            ordered, order = self.influence()[rows].sort(descending=True)
            before = ordered.cumsum(0) - ordered
            wanted = (before < coverage * ordered.sum()) & (ordered > 0)
            self.expand(torch.cat([rows[order[wanted]], self._forced(rows[order[~wanted]])]))

    def by_number(self, max_features: int, coverage: float | None) -> None:
        """The ``max_features`` most influential, in rounds, since rows change the ranking."""
        everything = torch.arange(len(self.local.features))
        self.expand(self._forced(everything))
        batch = max(1, -(-max_features // ROUNDS))
        while len(self.chosen) < max_features:
            influence = self.influence()[: len(everything)]
            influence[self.chosen] = 0
            enough = 0.0 if coverage is None else (1 - coverage) * float(self._weight())
            if float(influence.sum()) <= enough:
                return
            size = min(batch, max_features - len(self.chosen))
            values, rows = influence.topk(min(size, len(influence)))
            self.expand(rows[values > 0])

    def _forced(self, rows: Tensor) -> Tensor:
        return rows[self.feature_weights[rows] > 0]

    def _weight(self) -> Tensor:
        return self.top_weights.sum() + self.feature_weights.sum()

    def finish(self) -> Expanded:
        """What was expanded, in the order of ``local.features``, with its certificate."""
        order = torch.argsort(self.chosen)
        rows = Rows(self.edges[order], self.constant[order])
        return Expanded(self.chosen[order], rows, self._certificate())

    def _certificate(self) -> Certificate:
        local, n = self.local, len(self.local.features)
        influence = self.influence() / self._weight()
        unexpanded = torch.ones(n, dtype=torch.bool)
        unexpanded[self.chosen] = False
        left = float(influence[:n][unexpanded].sum())
        lost = float(influence[n : n + local.n_errors].sum())
        reached = float(influence[n + local.n_errors :].sum())
        total = float(influence.sum()) + 1
        ends = max(reached + lost + left, 1e-30)
        return Certificate(
            active=n,
            expanded=len(self.chosen),
            unexpanded_influence=left,
            replacement=(reached / ends, (reached + left) / ends),
            completeness=(
                1 - (lost + left) / (total + left),
                1 - lost / (total + left * (local.n_layers + 1)),
            ),
        )


def feature_readouts(local: LocalReplacementModel, rows: Int[Tensor, " row"]) -> Readouts:
    """Readouts of features of any layers, in the order given."""
    layers = local.features.layer[rows]
    first = local.errors.new_empty(len(rows), local.errors.shape[-1])
    bias = local.errors.new_empty(len(rows))
    for layer in layers.unique().tolist():
        mine = (layers == layer).nonzero().flatten()
        made = local.reads(layer, rows[mine])
        first[mine], bias[mine] = made.vectors, made.bias
    return Readouts(local.read_site, layers, local.features.position[rows], first, bias)


def check(coverage: float | None, max_features: int | None) -> None:
    """Raise InputError for a coverage outside 0..1 or a negative number of features."""
    if coverage is not None and not 0 <= coverage <= 1:
        raise InputError(f"coverage must be between 0 and 1, got {coverage}")
    if max_features is not None and max_features < 0:
        raise InputError(f"max_features must not be negative, got {max_features}")
