"""The strongest paths through a graph, and a graph told in plain text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import gains, normalize
from tl_attribution.graph.node_selectors import NodeSelector, select_nodes
from tl_attribution.graph.nodes import KINDS, Node
from tl_attribution.text import printable, quote


class Path(NamedTuple):
    """A chain of edges from a source to a target.

    ``nodes`` are rows of the graph, the source first. ``weights`` are the edges between them as
    they stand in the adjacency, with their signs. ``strength`` is the influence that takes this
    path: the product of each edge's share of all that comes into its target (methods paper, "Graph
    pruning": sizes, without signs), times the last node's weight where the graph's own targets are
    meant. ``effect`` is what comes to the last node's pre-activation on this path, in its units and
    with its sign: the product of the edges, each but the last divided by the pre-activation of the
    feature that it leads to, because a feature passes on what it reads in proportion.
    """

    nodes: tuple[int, ...]
    weights: tuple[float, ...]
    strength: float
    effect: float


class Partial(NamedTuple):
    """The best partial paths from a source to every node, best first.

    ``before`` and ``slot`` say which partial path of which node each one continues; ``before`` is
    -1 where a path starts."""

    strength: Float[Tensor, "node n"]
    before: Int[Tensor, "node n"]
    slot: Int[Tensor, "node n"]


def strongest(
    graph: Graph, n: int = 5, source: NodeSelector | None = None, target: NodeSelector | None = None
) -> list[Path]:
    """The ``n`` strongest paths from ``source`` to ``target``, strongest first: without them, from
    token and position nodes to the graph's targets, each with its weight.

    Exact: the best paths to a node are continuations of the best paths to its sources, so it is
    enough to keep ``n`` for each node, going through the nodes in topological order. Raises
    InputError if ``n`` is negative, for a node that is not of this graph, or if the graph has a
    cycle.
    """
    if n < 0:
        raise InputError(f"n must be 0 or more, got {n}")
    starts = graph.nodes.is_kind("token", "position")
    weights = graph.target_weights.double()
    if source is not None:
        starts = _flags(graph, select_nodes(graph.nodes, source))
    if target is not None:
        weights = _flags(graph, select_nodes(graph.nodes, target)).double()
    if n == 0:
        return []
    kept = n + int(bool((starts & (weights > 0)).any()))  # a path of no edges is none
    best = _partial_paths(graph, starts, kept)
    real = (best.before >= 0) * best.strength
    whole = (real * weights[:, None]).flatten().topk(min(n, real.numel()))
    return [
        _trace(graph, best, place // kept, place % kept, strength)
        for strength, place in zip(whole.values.tolist(), whole.indices.tolist(), strict=True)
        if strength > 0
    ]


def _flags(graph: Graph, rows: tuple[int, ...]) -> Bool[Tensor, " node"]:
    flags = torch.zeros(len(graph.nodes), dtype=torch.bool)
    flags[list(rows)] = True
    return flags


def _partial_paths(graph: Graph, starts: Bool[Tensor, " node"], n: int) -> Partial:
    shares = normalize(graph.adjacency)
    best = Partial(
        strength=torch.zeros(len(starts), n, dtype=torch.float64),
        before=torch.full((len(starts), n), -1),
        slot=torch.zeros(len(starts), n, dtype=torch.long),
    )
    for rows in topological_levels(graph.adjacency != 0):
        # A source outside the n whose own best path is strongest cannot be on one of the n best.
        through_best = shares[rows] * best.strength[:, 0]
        sources = through_best.topk(min(n, len(starts))).indices
        share = shares[rows[:, None], sources].double()
        candidates = (share[:, :, None] * best.strength[sources]).flatten(1)
        begun = torch.cat([starts[rows, None].double(), candidates], 1)
        top = begun.topk(n)
        best.strength[rows] = top.values
        place = (top.indices - 1).clamp(min=0)
        continued = (top.indices > 0) & (top.values > 0)
        best.before[rows] = torch.where(continued, sources.gather(1, place // n), -1)
        best.slot[rows] = place % n
    return best


def topological_levels(
    edges: Bool[Tensor, "node node"],
) -> Iterator[Int[Tensor, " level"]]:
    """The rows of an acyclic graph in groups: each row's sources are all in earlier groups.

    ``edges[t, s]`` is true for an edge from s to t. Raises InputError if the graph has a cycle.
    """
    waiting = edges.sum(1)
    while (level := (waiting == 0).nonzero().flatten()).numel():
        yield level
        waiting -= edges[:, level].sum(1)
        waiting[level] = -1
    if (waiting > 0).any():
        raise InputError("the adjacency matrix has a cycle; an attribution graph is acyclic")


def _trace(graph: Graph, best: Partial, row: int, slot: int, strength: float) -> Path:
    """Walk back from a target to the source."""
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
    return Path(tuple(rows), weights, strength, effect)


def describe(node: Node, graph: Graph) -> str:
    """A node in a few words: ``" Dallas" (5)``, ``layer 1 #212 at " state" (4)``, with the
    feature's label, if it has one, at the end. A logit whose index is no token of the vocabulary
    (a difference, a direction) is its label. A supernode's name stands behind, in brackets."""
    group = f" [{printable(node.group)}]" if node.group else ""
    return _describe(node, graph) + group


def _describe(node: Node, graph: Graph) -> str:
    place = f"{quote(graph.metadata.tokens[node.position])} ({node.position})"
    match node.kind:
        case "token":
            return place
        case "position":
            return f"position {node.position}"
        case "error":
            return f"error layer {node.layer} at {place}"
        case "logit":
            return answer_label(node, graph)
    label = f": {printable(node.label)}" if node.label else ""
    return f"layer {node.layer} #{node.index} at {place}{label}"


def answer_label(node: Node, graph: Graph) -> str:
    """A logit node's token in quotes, or its label as it is if it stands for no single token; the
    position where it is predicted if that is not the last."""
    is_token = node.index < graph.metadata.d_vocab
    text = quote(node.label) if is_token else printable(node.label)
    last = node.position == len(graph.metadata.tokens) - 1
    return text if last else f"{text} after ({node.position})"


def route(path: Path, graph: Graph) -> str:
    """A path in words, source first; ``⊣`` in place of ``→`` marks a negative edge."""
    words = [describe(graph.nodes[row], graph) for row in path.nodes]
    arrows = ["→" if weight >= 0 else "⊣" for weight in path.weights]
    rest = (f" {arrow} {word}" for arrow, word in zip(arrows, words[1:], strict=True))
    return words[0] + "".join(rest)


def counts(graph: Graph) -> dict[str, int]:
    """How many nodes of each kind that occurs, and how many edges: ``{"features": 212, ...}``."""
    found = {f"{kind}s": int(graph.nodes.is_kind(kind).sum()) for kind in KINDS}
    return {name: n for name, n in found.items() if n} | {"edges": graph.n_edges}


def is_pruned(graph: Graph) -> bool:
    """Whether the graph is what :meth:`Graph.prune` left."""
    return "node_threshold" in graph.metadata.settings


def is_part(graph: Graph) -> bool:
    """Whether the graph is what :meth:`Graph.subgraph` left."""
    return "subgraph_of" in graph.metadata.settings


def part_text(graph: Graph) -> str:
    """What a subgraph is a part of."""
    whole = graph.metadata.settings["subgraph_of"]
    return f"A part, chosen by hand, of a graph of {whole:,} nodes"


def facts(graph: Graph) -> list[tuple[str, str]]:
    """What there is to say about a graph in numbers, as (name, value) pairs of text."""
    scores, metadata, certificate = graph.scores(), graph.metadata, graph.certificate
    size = (f"{n:,} {name.rstrip('s') if n == 1 else name}" for name, n in counts(graph).items())
    found = [
        ("model", printable(metadata.model)),
        ("dictionary", printable(metadata.dictionary)),
        ("graph", ", ".join(size)),
        ("replacement", f"{scores.replacement:.3f}"),
        ("completeness", f"{scores.completeness:.3f}"),
        ("residual", f"{graph.residual():.1e}"),
    ]
    if is_pruned(graph):
        nodes, edges = (metadata.settings[f"{kind}_threshold"] for kind in ("node", "edge"))
        kept = f"{nodes:g} of influence, {edges:g} of edges; the scores are of what is left"
        found.insert(3, ("pruned to", kept))
    if is_part(graph):
        found.insert(3, ("subgraph", f"{part_text(graph)}; the scores are of what is left"))
    if certificate.expanded < certificate.active:
        found.append(("partial", certificate_text(graph)))
    return found


def certificate_text(graph: Graph) -> str:
    """What a partial graph leaves out and how far its scores can be from the whole graph's."""
    c = graph.certificate
    return (
        f"{c.expanded:,} of {c.active:,} active features expanded; "
        f"{c.unexpanded_influence:.1%} of the influence goes to the others; the whole graph has "
        f"replacement {c.replacement[0]:.3f} to {c.replacement[1]:.3f}, "
        f"completeness {c.completeness[0]:.3f} to {c.completeness[1]:.3f}"
    )


def summary(graph: Graph, n_paths: int = 5) -> str:
    """The graph in readable text: prompt, answers, size, scores, residual, strongest paths."""
    tokens = " ".join(quote(token) for token in graph.metadata.tokens)
    answers = "   ".join(f"{quote(a.token)} {a.probability:.1%}" for a in graph.metadata.answers)
    lines = [("prompt", printable(graph.metadata.prompt)), ("tokens", tokens), ("answers", answers)]
    text = [f"{name:<13}{value}" for name, value in lines + facts(graph)]
    paths = [f"  {path.strength:6.2%}  {route(path, graph)}" for path in strongest(graph, n_paths)]
    return "\n".join([*text, "strongest paths", *(paths or ["  none: no input reaches a target"])])
