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

from tl_attribution.devices import free_memory
from tl_attribution.errors import InputError, TooLargeError
from tl_attribution.graph.graph import Certificate
from tl_attribution.replacement.local import LocalReplacementModel, Readouts, Rows

FLOW_ROWS = 8
"""How many rows at a time have their absolute values taken: few, so that they stay in the cache."""
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
    """Features with rows: ``chosen`` are rows of ``local.features``, ascending. Columns of ``rows``
    and of ``top`` (the other targets) are the chosen features and all sources that are no features;
    what comes from features that were not chosen is in the constants. All on the model's device."""

    chosen: Int[Tensor, " expanded"]
    rows: Rows
    top: Rows
    certificate: Certificate


class Selection:
    """Grows the set of expanded features of one prompt. Their rows stay in the blocks in which they
    were made: over all sources they are the largest thing in memory, and are never copied."""

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
        self.blocks: list[Rows] = []
        self.chosen = self.local.features.layer.new_zeros(0)
        self.sizes = top.constant.new_zeros(0)

    def expand(self, rows: Int[Tensor, " new"]) -> None:
        """Compute the rows of these features. Raises TooLargeError if they don't fit in memory."""
        if not len(rows):
            return
        entries, features = len(rows) * self.local.n_sources, len(self.chosen) + len(rows)
        check_memory(entries, features, self.chosen.device)
        made = self.engine.rows(feature_readouts(self.local, rows))
        self.blocks.append(made)
        self.chosen = torch.cat([self.chosen, rows])
        self.sizes = torch.cat([self.sizes, _sizes(made.edges)])
        if self.progress is not None:
            self.progress(len(self.chosen), len(self.local.features))

    def influence(self) -> Float[Tensor, " source"]:
        """Influence of every source, given the rows so far. What arrives at the expanded features
        is settled first, among themselves; then they pass it on to all sources, once."""
        total = _flow(self.top_weights / _sizes(self.top.edges), self.top.edges)
        total[: len(self.feature_weights)] += self.feature_weights
        if not self.blocks:
            return total
        among = torch.cat([block.edges[:, self.chosen] for block in self.blocks]).abs()
        arriving = passed = total[self.chosen]
        while passed.any():
            passed = (passed / self.sizes) @ among
            arriving = arriving + passed
        shares = (arriving / self.sizes).split([len(block.constant) for block in self.blocks])
        for block, share in zip(self.blocks, shares, strict=True):
            total += _flow(share, block.edges)
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
        everything = torch.arange(len(self.local.features), device=self.chosen.device)
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
        """What was expanded, in the order of ``local.features``, with its certificate. Call it
        last: it lets go of the rows."""
        certificate, order = self._certificate(), torch.argsort(self.chosen)
        n, sources = len(self.local.features), self.local.n_sources
        inputs = torch.arange(n, sources, device=order.device)
        kept = torch.cat([self.chosen[order], inputs])
        left_out = self.sizes.new_ones(sources)
        left_out[kept] = 0
        top, parts = _keep(self.top, kept, left_out), []
        while self.blocks:
            parts.insert(0, _keep(self.blocks.pop(), kept, left_out))
        edges = torch.cat([top.edges[:0], *(part.edges for part in parts)])[order]
        constant = torch.cat([top.constant[:0], *(part.constant for part in parts)])[order]
        return Expanded(self.chosen[order], Rows(edges, constant), top, certificate)

    def _certificate(self) -> Certificate:
        local, n = self.local, len(self.local.features)
        influence = self.influence() / self._weight()
        unexpanded = torch.ones(n, dtype=torch.bool, device=influence.device)
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


def _sizes(edges: Float[Tensor, "target source"]) -> Float[Tensor, " target"]:
    """What :func:`~tl_attribution.graph.influence.normalise` divides by."""
    return torch.linalg.vector_norm(edges, ord=1, dim=1).clamp(min=1e-10)


def _flow(
    shares: Float[Tensor, " target"], edges: Float[Tensor, "target source"]
) -> Float[Tensor, " source"]:
    """``shares @ edges.abs()``, without a second matrix of that size."""
    parts = zip(shares.split(FLOW_ROWS), edges.split(FLOW_ROWS), strict=True)
    return sum((share @ rows.abs() for share, rows in parts), edges.new_zeros(edges.shape[1]))


def _keep(rows: Rows, kept: Int[Tensor, " kept"], left_out: Float[Tensor, " source"]) -> Rows:
    """Some of the columns; the others, marked by 1 in ``left_out``, go into the constant."""
    return Rows(rows.edges[:, kept], rows.constant + rows.edges @ left_out)


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


def check_memory(entries: int, features: int, device: torch.device | None = None) -> None:
    """Raise TooLargeError unless that many numbers, and half as many again, fit in the memory of a
    device (None: the processor, where graphs are)."""
    device = torch.device("cpu") if device is None else device
    needed, free = entries * 4 * 1.5, free_memory(device)
    if needed > free:
        where = "" if device.type == "cpu" else f" on {device}"
        raise TooLargeError(
            f"a graph of {features} features needs about {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free{where}; ask for less with max_features=2000 or "
            "coverage=0.9"
        )
