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
from tl_attribution.graph.influence import normalise
from tl_attribution.graph.nodes import KINDS, Node

JOINERS = "\u200c\u200d"
"""Invisible, but part of how Persian, Indic scripts and emoji are written; shown as they are."""


class Path(NamedTuple):
    """A chain of edges from an input to a target.

    ``nodes`` are rows of the graph, the token or position first. ``weights`` are the edges between
    them as they stand in the adjacency, with their signs. ``strength`` is the influence that takes
    this path: the target's weight times each edge's share of its target's input.
    """

    nodes: tuple[int, ...]
    weights: tuple[float, ...]
    strength: float


class Partial(NamedTuple):
    """The best partial paths from an input to every node, best first.

    ``before`` and ``slot`` say which partial path of which node each one continues."""

    strength: Float[Tensor, "node n"]
    before: Int[Tensor, "node n"]
    slot: Int[Tensor, "node n"]


def strongest(graph: Graph, n: int = 5) -> list[Path]:
    """The ``n`` strongest paths from token and position nodes to the targets, strongest first.

    Exact: the best paths to a node are continuations of the best paths to its sources, so it is
    enough to keep ``n`` for each node, going through the nodes in topological order. Raises
    InputError if ``n`` is negative or the graph has a cycle.
    """
    if n < 0:
        raise InputError(f"n must be 0 or more, got {n}")
    if n == 0:
        return []
    best = _partial_paths(graph, n)
    whole = best.strength * graph.target_weights.double()[:, None]
    chosen = whole.flatten().topk(min(n, whole.numel()))
    return [
        _trace(graph, best, place // n, place % n, strength)
        for strength, place in zip(chosen.values.tolist(), chosen.indices.tolist(), strict=True)
        if strength > 0
    ]


def _partial_paths(graph: Graph, n: int) -> Partial:
    shares = normalise(graph.adjacency)
    inputs = graph.nodes.is_kind("token", "position")
    best = Partial(
        strength=torch.zeros(len(inputs), n, dtype=torch.float64),
        before=torch.full((len(inputs), n), -1),
        slot=torch.zeros(len(inputs), n, dtype=torch.long),
    )
    best.strength[inputs, 0] = 1.0
    for rows in topological_levels(graph.adjacency != 0):
        rows = rows[~inputs[rows]]
        # A source outside the n whose own best path is strongest cannot be on one of the n best.
        through_best = shares[rows] * best.strength[:, 0]
        sources = through_best.topk(min(n, len(inputs))).indices
        share = shares[rows[:, None], sources].double()
        candidates = (share[:, :, None] * best.strength[sources]).flatten(1)
        top = candidates.topk(n)
        best.strength[rows] = top.values
        best.before[rows] = sources.gather(1, top.indices // n)
        best.slot[rows] = top.indices % n
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
    """Walk back from a target to the input."""
    rows = [row]
    while (source := int(best.before[row, slot])) >= 0:
        row, slot = source, int(best.slot[row, slot])
        rows.append(row)
    rows.reverse()
    weights = tuple(float(graph.adjacency[t, s]) for s, t in pairwise(rows))
    return Path(tuple(rows), weights, strength)


def printable(text: str) -> str:
    """``text`` with everything invisible or with a meaning to terminals and text direction escaped.

    >>> printable("a\\n\\x1b[31m")
    'a\\\\n\\\\x1b[31m'
    """
    return "".join(
        c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text
    )


def quote(text: str) -> str:
    """``text`` in quotes, so that its spaces are seen.

    >>> quote(" Dallas")
    '" Dallas"'
    """
    return f'"{printable(text)}"'


def describe(node: Node, graph: Graph) -> str:
    """A node in a few words: ``" Dallas" (5)``, ``layer 1 #212 at " state" (4)``, with the
    feature's label, if it has one, at the end. A logit whose index is no token of the vocabulary
    (a difference, a direction) is its label."""
    place = f"{quote(graph.about.tokens[node.position])} ({node.position})"
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
    is_token = node.index < graph.about.d_vocab
    text = quote(node.label) if is_token else printable(node.label)
    last = node.position == len(graph.about.tokens) - 1
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
    return "node_threshold" in graph.about.settings


def facts(graph: Graph) -> list[tuple[str, str]]:
    """What there is to say about a graph in numbers, as (name, value) pairs of text."""
    scores, about, certificate = graph.scores(), graph.about, graph.certificate
    size = (f"{n:,} {name.rstrip('s') if n == 1 else name}" for name, n in counts(graph).items())
    found = [
        ("model", printable(about.model)),
        ("dictionary", printable(about.dictionary)),
        ("graph", ", ".join(size)),
        ("replacement", f"{scores.replacement:.3f}"),
        ("completeness", f"{scores.completeness:.3f}"),
        ("residual", f"{graph.residual():.1e}"),
    ]
    if is_pruned(graph):
        nodes, edges = (about.settings[f"{kind}_threshold"] for kind in ("node", "edge"))
        kept = f"{nodes:g} of influence, {edges:g} of edges; the scores are of what is left"
        found.insert(3, ("pruned to", kept))
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
    tokens = " ".join(quote(token) for token in graph.about.tokens)
    answers = "   ".join(f"{quote(a.token)} {a.probability:.1%}" for a in graph.about.answers)
    lines = [("prompt", printable(graph.about.prompt)), ("tokens", tokens), ("answers", answers)]
    text = [f"{name:<13}{value}" for name, value in lines + facts(graph)]
    paths = [f"  {path.strength:6.2%}  {route(path, graph)}" for path in strongest(graph, n_paths)]
    return "\n".join([*text, "strongest paths", *(paths or ["  none: no input reaches a target"])])
