"""The strongest paths through a graph."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.data import GraphData
from tl_attribution.graph.influence import gains, normalize
from tl_attribution.graph.node_selectors import NodeSelector, select_nodes


class GraphPath(NamedTuple):
    """A chain of edges from a source to a target.

    ``nodes`` are rows of the graph, the source first. ``weights`` are the edges between them as in
    the adjacency, with their signs. ``strength`` is the influence along this path: the product of
    each edge's share of all that comes into its target (methods paper, "Graph pruning": sizes,
    without signs), times the last node's weight where the paths lead to the graph's targets.
    ``effect`` is what comes to the last node's pre-activation on this path, in its units and with
    its sign: the product of the edges, each but the last divided by the pre-activation of the
    feature that it leads to, because a feature passes on what it reads in proportion.
    """

    nodes: tuple[int, ...]
    weights: tuple[float, ...]
    strength: float
    effect: float


class PartialPaths(NamedTuple):
    """The best partial paths from a source to every node, best first.

    ``before`` and ``slot`` say which partial path of which node each one continues; ``before`` is
    -1 where a path starts."""

    strength: Float[Tensor, "node n"]
    before: Int[Tensor, "node n"]
    slot: Int[Tensor, "node n"]


def strongest_paths(
    graph: GraphData,
    n: int = 5,
    source: NodeSelector | None = None,
    target: NodeSelector | None = None,
) -> list[GraphPath]:
    """Find the ``n`` strongest paths from ``source`` to ``target``, strongest first: without them,
    from token and position nodes to the graph's targets, each with its weight.

    Exact: the best paths to a node are continuations of the best paths to its sources, so it is
    enough to keep ``n`` for each node, going through the nodes in topological order. Raises
    InputError if ``n`` is negative, for a node that is not in this graph, or if the graph has a
    cycle.
    """
    if n < 0:
        raise InputError(f"n must be 0 or more, got {n}")
    starts = graph.nodes.is_kind("token", "position")
    weights = graph.target_weights.double()
    if source is not None:
        starts = _mask(graph, source)
    if target is not None:
        weights = _mask(graph, target).double()
    if n == 0:
        return []
    kept = n + int(bool((starts & (weights > 0)).any()))  # a path has at least one edge
    best = _partial_paths(graph, starts, kept)
    with_edges = (best.before >= 0) * best.strength
    top = (with_edges * weights[:, None]).flatten().topk(min(n, with_edges.numel()))
    return [
        _trace(graph, best, entry // kept, entry % kept, strength)
        for strength, entry in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        if strength > 0
    ]


def _mask(graph: GraphData, nodes: NodeSelector) -> Bool[Tensor, " node"]:
    mask = torch.zeros(len(graph.nodes), dtype=torch.bool)
    mask[list(select_nodes(graph.nodes, nodes))] = True
    return mask


def _partial_paths(graph: GraphData, starts: Bool[Tensor, " node"], n: int) -> PartialPaths:
    shares = normalize(graph.adjacency)
    best = PartialPaths(
        strength=torch.zeros(len(starts), n, dtype=torch.float64),
        before=torch.full((len(starts), n), -1),
        slot=torch.zeros(len(starts), n, dtype=torch.long),
    )
    for rows in topological_levels(graph.adjacency != 0):
        # A source whose best path is not among the n strongest cannot be on one of the n best.
        through_best = shares[rows] * best.strength[:, 0]
        sources = through_best.topk(min(n, len(starts))).indices
        share = shares[rows[:, None], sources].double()
        candidates = (share[:, :, None] * best.strength[sources]).flatten(1)
        with_start = torch.cat([starts[rows, None].double(), candidates], 1)
        top = with_start.topk(n)
        best.strength[rows] = top.values
        entry = (top.indices - 1).clamp(min=0)
        continued = (top.indices > 0) & (top.values > 0)
        best.before[rows] = torch.where(continued, sources.gather(1, entry // n), -1)
        best.slot[rows] = entry % n
    return best


def topological_levels(
    edges: Bool[Tensor, "node node"],
) -> Iterator[Int[Tensor, " level"]]:
    """Yield the rows of an acyclic graph in groups: each row's sources are all in earlier groups.

    ``edges[t, s]`` is true for an edge from s to t. Raises InputError if the graph has a cycle.
    """
    waiting = edges.sum(1)
    while (level := (waiting == 0).nonzero().flatten()).numel():
        yield level
        waiting -= edges[:, level].sum(1)
        waiting[level] = -1
    if (waiting > 0).any():
        raise InputError("the adjacency matrix has a cycle; an attribution graph is acyclic")


def _trace(graph: GraphData, best: PartialPaths, row: int, slot: int, strength: float) -> GraphPath:
    """Follow a path back from its target to its source."""
    rows = [row]
    while (source := int(best.before[row, slot])) >= 0:
        row, slot = source, int(best.slot[row, slot])
        rows.append(row)
    rows.reverse()
    weights = tuple(float(graph.adjacency[t, s]) for s, t in pairwise(rows))
    passed = gains(graph.preactivation)
    effect = weights[-1]
    for weight, target in zip(weights[:-1], rows[1:-1], strict=True):
        effect *= weight * float(passed[target])
    return GraphPath(tuple(rows), weights, strength, effect)
