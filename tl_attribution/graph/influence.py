"""Influence, pruning and scores of an adjacency matrix (methods paper, "Graph pruning" and
"Graph scores"). Pure functions of tensors; the thresholds mean what they mean in circuit-tracer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_attribution.errors import InputError

Matrix = Float[Tensor, "node node"]
Vector = Float[Tensor, " node"]
Mask = Bool[Tensor, " node"]


class Scores(NamedTuple):
    """``replacement``: share of the input's influence on the targets that reaches them through
    features rather than errors. ``completeness``: influence-weighted share of all nodes' inputs
    that are not errors. Both 0 to 1."""

    replacement: float
    completeness: float


class Pruned(NamedTuple):
    """Masks of the nodes and edges that survive pruning."""

    nodes: Mask
    edges: Bool[Tensor, "node node"]


def normalize(adjacency: Float[Tensor, "target node"]) -> Float[Tensor, "target node"]:
    """Divide the absolute values of each row by their sum (rows of zeros stay zero)."""
    size = adjacency.abs()
    return size / size.sum(1, keepdim=True).clamp(min=1e-10)


def influence(normalized: Matrix, weights: Vector) -> Vector:
    """Return ``weights @ (A + A² + …)``: what each node contributes to the weighted targets.

    The graph is acyclic, so the sum ends after as many terms as its longest path has edges.
    Raises InputError if it does not end, or if an edge on the way is NaN or infinite.
    """
    total = torch.zeros_like(weights)
    current = weights
    for _ in range(len(weights) + 1):
        current = current @ normalized
        if not current.any():
            return total
        if not current.isfinite().all():
            raise InputError("the adjacency matrix holds a NaN or infinite edge")
        total = total + current
    raise InputError("the adjacency matrix has a cycle; an attribution graph is acyclic")


def flow(adjacency: Matrix, weights: Vector) -> Matrix:
    """Return the influence on the weighted targets that goes over each edge: its share of its
    target's input, times what its target contributes (methods paper, "Graph pruning")."""
    normalized = normalize(adjacency)
    return normalized * (influence(normalized, weights) + weights)[:, None]


def gains(preactivation: Vector) -> Float[Tensor, " node"]:
    """Return one divided by each pre-activation, 0 where it is 0: what a feature passes on, as a
    share of what it writes, for each unit that it reads."""
    double = preactivation.double()
    return torch.where(double == 0, 0.0, 1 / double)


def effects(adjacency: Matrix, preactivation: Vector, target: int) -> Float[Tensor, " node"]:
    """Return the signed effect of each node on the pre-activation of ``target`` over all paths.

    ``A[target] @ (I + D A + (D A)² + …)`` with D the :func:`gains`: the linear graph, in which a
    feature writes in proportion to its pre-activation. The effects of all nodes without in-edges
    and of all constants add up to the target's pre-activation. Raises InputError as
    :func:`influence`.
    """
    passed = adjacency * gains(preactivation)[:, None]
    direct = adjacency[target].double()
    return direct + influence(passed, direct)


def check_threshold(name: str, value: float) -> None:
    """Raise InputError unless ``value`` is a share between 0 and 1."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} must be between 0 and 1, got {value}")


def _cutoff(scores: Tensor, share: float) -> Tensor:
    """The smallest score among the fewest that together hold ``share`` of the sum."""
    ordered = scores.flatten().sort(descending=True).values
    cumulative = ordered.cumsum(0) / ordered.sum()
    last = int(torch.searchsorted(cumulative, share).item())
    return ordered[min(last, len(ordered) - 1)]


def prune_matrix(
    adjacency: Matrix,
    weights: Vector,
    features: Mask,
    always: Mask,
    node_threshold: float,
    edge_threshold: float,
) -> Pruned:
    """Keep the nodes that hold ``node_threshold`` of the influence, then the edges that hold
    ``edge_threshold`` of it among those nodes, then drop what no longer leads anywhere.

    ``always`` (tokens, logits, targets) is kept whatever its influence; ``features`` also need an
    incoming edge. Raises InputError for a threshold outside 0..1.
    """
    check_threshold("node_threshold", node_threshold)
    check_threshold("edge_threshold", edge_threshold)
    node_influence = influence(normalize(adjacency), weights)
    nodes = (node_influence >= _cutoff(node_influence, node_threshold)) | always
    kept = adjacency[nodes][:, nodes]
    scored = flow(kept, weights[nodes])
    edges = torch.zeros_like(adjacency, dtype=torch.bool)
    surviving = (scored >= _cutoff(scored, edge_threshold)) & (kept != 0)
    edges[nodes.nonzero(), nodes.nonzero().T] = surviving
    while True:
        edges &= nodes[:, None] & nodes[None, :]
        leading = nodes & (edges.any(0) | always) & (edges.any(1) | ~features | always)
        if torch.equal(leading, nodes):
            return Pruned(nodes, edges)
        nodes = leading


def score_matrix(adjacency: Matrix, weights: Vector, inputs: Mask, errors: Mask) -> Scores:
    """Return the replacement and completeness score. ``inputs``: token and position nodes."""
    normalized = normalize(adjacency)
    node_influence = influence(normalized, weights)
    reached, lost = node_influence[inputs].sum(), node_influence[errors].sum()
    arriving = node_influence + weights
    explained = 1 - normalized[:, errors].sum(1)
    return Scores(
        replacement=float(reached / (reached + lost).clamp(min=1e-30)),
        completeness=float((explained * arriving).sum() / arriving.sum()),
    )
