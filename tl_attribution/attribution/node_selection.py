"""Which features become nodes of a partial graph, and what that leaves out, exactly.

Influence flows from the targets down; a feature's influence is final once all targets above it have
their rows. Influence that arrives at a feature without a row stays there: that is what is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.attribution.engine import Engine, RowProgress, all_rows, feature_readouts
from tl_attribution.attribution.problem import AttributionProblem
from tl_attribution.devices import free_memory
from tl_attribution.errors import InputError, TooLargeError
from tl_attribution.graph.data import Certificate
from tl_attribution.replacement.local_model import EdgeRows

FLOW_ROWS = 8
"""How many rows at a time have their absolute values taken: few, so that they stay in the cache."""
ROUNDS = 8
"""In how many rounds the ``max_features`` most influential features are found."""


@dataclass(frozen=True, eq=False)
class ExpandedFeatures:
    """Features with rows, on the model's device: ``expanded`` are rows of ``local.features``,
    ascending. Columns of both kinds of rows are the expanded features and all sources that are not
    features; what comes from the other features is in the constants."""

    expanded: Int[Tensor, " expanded"]
    feature_rows: EdgeRows
    logit_rows: EdgeRows
    certificate: Certificate


class NodeSelection:
    """Grows the set of expanded features of one prompt. Their rows stay in the blocks in which they
    were computed: over all sources they are the largest thing in memory, and are never copied."""

    def __init__(
        self,
        problem: AttributionProblem,
        engine: Engine,
        logit_rows: EdgeRows,
        progress: RowProgress | None,
    ) -> None:
        self.engine, self.local, self.progress = engine, problem.local, progress
        self.logit_rows, self.logit_weights = logit_rows, problem.logit_weights
        self.feature_weights = problem.feature_weights
        self.blocks: list[EdgeRows] = []
        self.expanded = all_rows(self.local)[:0]
        self.sizes = logit_rows.constant.new_zeros(0)

    def expand(self, rows: Int[Tensor, " new"]) -> None:
        """Compute the rows of these features. Raises TooLargeError if they don't fit in memory."""
        if not len(rows):
            return
        n = len(self.expanded) + len(rows)
        check_memory(len(rows) * self.local.n_sources, n, self.local.run.device)
        block = self.engine.rows(feature_readouts(self.local, rows))
        self.blocks.append(block)
        self.expanded = torch.cat([self.expanded, rows])
        self.sizes = torch.cat([self.sizes, _sizes(block.edges)])
        if self.progress is not None:
            self.progress(n, len(self.local.features))

    def influence(self) -> Float[Tensor, " source"]:
        """Influence of every source, given the rows so far. What arrives at the expanded features
        is settled first, among themselves; then they pass it on to all sources, once."""
        total = _flow(self.logit_weights / _sizes(self.logit_rows.edges), self.logit_rows.edges)
        total[: len(self.feature_weights)] += self.feature_weights
        if not self.blocks:
            return total
        among = torch.cat([block.edges[:, self.expanded] for block in self.blocks]).abs()
        arriving = passed = total[self.expanded]
        while passed.any():
            passed = (passed / self.sizes) @ among
            arriving = arriving + passed
        shares = (arriving / self.sizes).split([len(block.constant) for block in self.blocks])
        for block, share in zip(self.blocks, shares, strict=True):
            total += _flow(share, block.edges)
        return total

    def by_coverage(self, coverage: float) -> None:
        """Top down: at each layer the fewest features that hold ``coverage`` of its influence."""
        for layer in reversed(range(self.local.run.n_layers)):
            rows = (self.local.features.layer == layer).nonzero().flatten()
            ordered, order = self.influence()[rows].sort(descending=True)
            before = ordered.cumsum(0) - ordered
            enough = (before < coverage * ordered.sum()) & (ordered > 0)
            self.expand(torch.cat([rows[order[enough]], self._forced(rows[order[~enough]])]))

    def by_number(self, max_features: int, coverage: float | None) -> None:
        """The ``max_features`` most influential, in rounds, since rows change the ranking."""
        everything = all_rows(self.local)
        self.expand(self._forced(everything))
        batch = max(1, -(-max_features // ROUNDS))
        while len(self.expanded) < max_features:
            influence = self.influence()[: len(everything)]
            influence[self.expanded] = 0
            remainder = 0.0 if coverage is None else (1 - coverage) * float(self._weight())
            if float(influence.sum()) <= remainder:
                return
            size = min(batch, max_features - len(self.expanded))
            values, rows = influence.topk(min(size, len(influence)))
            self.expand(rows[values > 0])

    def _forced(self, rows: Tensor) -> Tensor:
        return rows[self.feature_weights[rows] > 0]

    def _weight(self) -> Tensor:
        return self.logit_weights.sum() + self.feature_weights.sum()

    def finish(self) -> ExpandedFeatures:
        """What was expanded, in the order of ``local.features``, with its certificate. Call it
        last: it lets go of the rows."""
        certificate, order = self._certificate(), torch.argsort(self.expanded)
        n, sources = len(self.local.features), self.local.n_sources
        inputs = torch.arange(n, sources, device=order.device)
        kept = torch.cat([self.expanded[order], inputs])
        left_out = self.sizes.new_ones(sources)
        left_out[kept] = 0
        top, parts = _keep(self.logit_rows, kept, left_out), []
        while self.blocks:
            parts.insert(0, _keep(self.blocks.pop(), kept, left_out))
        edges = torch.cat([top.edges[:0], *(part.edges for part in parts)])[order]
        constant = torch.cat([top.constant[:0], *(part.constant for part in parts)])[order]
        return ExpandedFeatures(self.expanded[order], EdgeRows(edges, constant), top, certificate)

    def _certificate(self) -> Certificate:
        local, n = self.local, len(self.local.features)
        influence = self.influence() / self._weight()
        unexpanded = torch.ones_like(influence[:n], dtype=torch.bool)
        unexpanded[self.expanded] = False
        left = float(influence[:n][unexpanded].sum())
        lost = float(influence[n : n + local.n_errors].sum())
        reached = float(influence[n + local.n_errors :].sum())
        total = float(influence.sum()) + 1
        ends = max(reached + lost + left, 1e-30)
        return Certificate(
            active=n,
            expanded=len(self.expanded),
            unexpanded_influence=left,
            replacement=(reached / ends, (reached + left) / ends),
            completeness=(
                1 - (lost + left) / (total + left),
                1 - lost / (total + left * (local.run.n_layers + 1)),
            ),
        )


def _sizes(edges: Float[Tensor, "target source"]) -> Float[Tensor, " target"]:
    """What :func:`~tl_attribution.graph.influence.normalize` divides by."""
    return torch.linalg.vector_norm(edges, ord=1, dim=1).clamp(min=1e-10)


def _flow(
    shares: Float[Tensor, " target"], edges: Float[Tensor, "target source"]
) -> Float[Tensor, " source"]:
    """``shares @ edges.abs()``, without a second matrix of that size."""
    parts = zip(shares.split(FLOW_ROWS), edges.split(FLOW_ROWS), strict=True)
    return sum((share @ rows.abs() for share, rows in parts), edges.new_zeros(edges.shape[1]))


def _keep(
    rows: EdgeRows, kept: Int[Tensor, " kept"], left_out: Float[Tensor, " source"]
) -> EdgeRows:
    """Some of the columns; the others, marked by 1 in ``left_out``, go into the constant."""
    return EdgeRows(rows.edges[:, kept], rows.constant + rows.edges @ left_out)


def check_selection(coverage: float | None, max_features: int | None) -> None:
    """Raise InputError for a coverage outside 0..1 or a negative number of features."""
    if coverage is not None and not 0 <= coverage <= 1:
        raise InputError(f"coverage must be between 0 and 1, got {coverage}")
    if max_features is not None and max_features < 0:
        raise InputError(f"max_features must not be negative, got {max_features}")


def check_memory(entries: int, features: int, device: torch.device | None = None) -> None:
    """Raise TooLargeError unless ``entries`` numbers, and half as many again, fit in the memory of
    a device (None: the CPU's, where graphs are)."""
    device = torch.device("cpu") if device is None else device
    needed, free = entries * 4 * 1.5, free_memory(device)
    if needed > free:
        place = "" if device.type == "cpu" else f" on {device}"
        raise TooLargeError(
            f"a graph of {features} features needs about {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free{place}; ask for less with max_features=2000 or "
            "coverage=0.9"
        )
