"""Compute a graph's edges: of all active features, or of those that matter most."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.attribution.engine import (
    Engine,
    RowProgress,
    all_rows,
    feature_readouts,
    logit_rows,
)
from tl_attribution.attribution.node_selection import NodeSelection, check_memory
from tl_attribution.attribution.problem import AttributionProblem
from tl_attribution.graph.data import Certificate


@dataclass(frozen=True, eq=False)
class GraphTensors:
    """A graph's numbers. ``expanded`` are the rows of ``local.features`` that became nodes, on the
    model's device; the rest is on the CPU, where a graph may be larger than a device's memory."""

    expanded: Int[Tensor, " expanded"]
    adjacency: Float[Tensor, "node node"]
    constant: Float[Tensor, " node"]
    certificate: Certificate


def trace_all(
    problem: AttributionProblem, engine: Engine, progress: RowProgress | None
) -> GraphTensors:
    """Rows of every active feature. Raises TooLargeError if they don't fit in memory."""
    local, total = problem.local, problem.n_nodes
    n, sources = len(local.features), local.n_sources
    check_memory(total * total, n)
    adjacency, constant = _empty(problem, total)
    logits = logit_rows(problem, engine)
    adjacency[sources:, :sources], constant[sources:] = logits.edges.cpu(), logits.constant.cpu()
    features = all_rows(local)
    if n:
        readouts = feature_readouts(local, features)
        rows = engine.rows(readouts, out=adjacency[:n, :sources], progress=progress)
        constant[:n] = rows.constant.cpu()
    certificate = Certificate(n, n, 0.0, (0.0, 1.0), (0.0, 1.0))
    return GraphTensors(features, adjacency, constant, certificate)


def trace_selected(
    problem: AttributionProblem,
    engine: Engine,
    coverage: float | None,
    max_features: int | None,
    progress: RowProgress | None,
) -> GraphTensors:
    """Rows of the features that hold ``coverage`` of the influence, or of the ``max_features`` most
    influential. Raises TooLargeError if they don't fit in memory."""
    selection = NodeSelection(problem, engine, logit_rows(problem, engine), progress)
    if max_features is None:
        selection.by_coverage(1.0 if coverage is None else coverage)
    else:
        selection.by_number(max_features, coverage)
    kept = selection.finish()
    n, sources = kept.feature_rows.edges.shape
    total = sources + len(problem.logits)
    check_memory(total * total, n)
    adjacency, constant = _empty(problem, total)
    adjacency[:n, :sources] = kept.feature_rows.edges.cpu()
    adjacency[sources:, :sources] = kept.logit_rows.edges.cpu()
    constant[:n] = kept.feature_rows.constant.cpu()
    constant[sources:] = kept.logit_rows.constant.cpu()
    return GraphTensors(kept.expanded, adjacency, constant, kept.certificate)


def _empty(problem: AttributionProblem, n: int) -> tuple[Tensor, Tensor]:
    adjacency = problem.local.errors.new_zeros(n, n, device="cpu")
    return adjacency, adjacency.new_zeros(n)
