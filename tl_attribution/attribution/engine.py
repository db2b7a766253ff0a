"""What computes edges: an engine turns readouts into rows of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from tl_attribution.attribution.problem import AttributionProblem
from tl_attribution.attribution.targets import target_readouts
from tl_attribution.hosts.sites import LOGITS, RESIDUAL
from tl_attribution.replacement.local_model import EdgeRows, LocalReplacementModel, Readouts

RowProgress = Callable[[int, int], None]
"""(rows done, rows in total)."""


@runtime_checkable
class Engine(Protocol):
    """Computes edges of one local replacement model, in closed form or by autograd."""

    local: LocalReplacementModel

    def rows(
        self,
        readouts: Readouts,
        *,
        out: Tensor | None = None,
        progress: RowProgress | None = None,
    ) -> EdgeRows:
        """Edges into every readout. ``out`` [row, source], which must be zero and may be on another
        device, is filled in place of new memory."""
        ...


def feature_readouts(local: LocalReplacementModel, rows: Int[Tensor, " row"]) -> Readouts:
    """Readouts of features of any layers, in the order of ``rows``."""
    layers = local.features.layer[rows]
    vectors = local.errors.new_empty(len(rows), local.errors.shape[-1])
    bias = local.errors.new_empty(len(rows))
    for layer in layers.unique().tolist():
        in_layer = (layers == layer).nonzero().flatten()
        readouts = local.reads(layer, rows[in_layer])
        vectors[in_layer], bias[in_layer] = readouts.vectors, readouts.bias
    position = local.features.position[rows]
    return Readouts(local.run.sites.read_site, layers, position, vectors, bias)


def logit_rows(problem: AttributionProblem, engine: Engine) -> EdgeRows:
    """Rows of the targets that are not features, in the order of ``problem.logits``."""
    local, n = problem.local, len(problem.logits)
    rows = EdgeRows(local.errors.new_zeros(n, local.n_sources), local.errors.new_zeros(n))
    for site in (LOGITS, RESIDUAL):
        order, readouts = target_readouts(problem.logits, site)
        if readouts is not None:
            edges = engine.rows(readouts)
            rows.edges[order], rows.constant[order] = edges.edges, edges.constant
    return rows


def all_rows(local: LocalReplacementModel) -> Int[Tensor, " active"]:
    """Every row of ``local.features``."""
    return torch.arange(len(local.features), device=local.run.device)
