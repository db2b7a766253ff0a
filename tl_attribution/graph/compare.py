"""What the graphs of two prompts share, and where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple, Union

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import flow
from tl_attribution.graph.nodes import KINDS, Node

Align = Union[str, Mapping[int, int]]  # noqa: UP007  # evaluated on Python 3.10


class Match(NamedTuple):
    """What two graphs share, as pairs of rows (in the first graph, in the second), and what only
    one of them has. Nodes are rows of their graph, in its order."""

    both: Int[Tensor, "pair 2"]
    only_a: Int[Tensor, " a"]
    only_b: Int[Tensor, " b"]


class EdgeMatch(NamedTuple):
    """Edges that two graphs share, and those of only one. An edge is its target's and its source's
    row; shared ones are rows in the first graph, then in the second."""

    both: Int[Tensor, "edge 4"]
    only_a: Int[Tensor, "edges_a 2"]
    only_b: Int[Tensor, "edges_b 2"]


class Counted(NamedTuple):
    """How many are shared and how many are in one graph only; and which share of what each graph
    holds of it, by influence, is in the shared ones (0 to 1; 0 where nothing has influence)."""

    both: int
    only_a: int
    only_b: int
    share_a: float
    share_b: float


@dataclass(frozen=True)
class Comparison:
    """Two graphs of one model and dictionary side by side; ``positions`` says which position of the
    second stands for which of the first."""

    a: Graph
    b: Graph
    positions: dict[int, int]
    nodes: Match
    edges: EdgeMatch

    def count(self, *kinds: str) -> Counted:
        """How many nodes of these kinds are shared; without kinds, of all."""
        is_a, is_b = (g.nodes.is_kind(*(kinds or KINDS)) for g in (self.a, self.b))
        return self._counted(is_a, is_b)

    def by_layer(self) -> dict[int, Counted]:
        """The features of each layer, counted."""
        layers = range(self.a.metadata.n_layers)
        features = [(g.nodes.is_kind("feature"), g.nodes.layer) for g in (self.a, self.b)]
        return {
            layer: self._counted(*(is_one & (at == layer) for is_one, at in features))
            for layer in layers
        }

    def _counted(self, in_a: Bool[Tensor, " a"], in_b: Bool[Tensor, " b"]) -> Counted:
        rows_a, rows_b = self.nodes.both[in_a[self.nodes.both[:, 0]]].unbind(1)
        return Counted(
            len(rows_a),
            int(in_a[self.nodes.only_a].sum()),
            int(in_b[self.nodes.only_b].sum()),
            _share(self.a.nodes.influence, rows_a, in_a),
            _share(self.b.nodes.influence, rows_b, in_b),
        )

    def count_edges(self) -> Counted:
        """How many edges are shared, and how much of the influence of each graph goes over them."""
        edges = self.edges
        return Counted(
            len(edges.both),
            len(edges.only_a),
            len(edges.only_b),
            _carried(self.a, edges.both[:, :2]),
            _carried(self.b, edges.both[:, 2:]),
        )

    def shared(self) -> list[tuple[Node, Node]]:
        """The shared nodes, first in the one graph and then in the other; those first that have
        the most influence in both."""
        pairs = self.nodes.both.tolist()
        found = [(self.a.nodes[i], self.b.nodes[j]) for i, j in pairs]
        return sorted(found, key=lambda pair: -min(pair[0].influence, pair[1].influence))

    def only_a(self) -> list[Node]:
        """The nodes that only the first graph has, the most influential first."""
        return _by_influence(self.a, self.nodes.only_a)

    def only_b(self) -> list[Node]:
        """The nodes that only the second graph has, the most influential first."""
        return _by_influence(self.b, self.nodes.only_b)

    def __str__(self) -> str:
        rows = [(f"features, layer {layer}", c) for layer, c in self.by_layer().items()]
        rows += [(f"{kind}s", self.count(kind)) for kind in KINDS]
        rows += [("edges", self.count_edges())]
        head = f"{'':18}{'both':>8}{'only a':>8}{'only b':>8}{'of a':>8}{'of b':>8}"
        return "\n".join([head, *(_line(name, counted) for name, counted in rows)])


def compare(graph_a: Graph, graph_b: Graph, *, align: Align = "tokens") -> Comparison:
    """Which nodes and edges two prompts share. Nodes are the same if kind, layer and index are (a
    feature's number, a token's id) and their positions correspond; edges, if both ends are.

    ``align`` says which positions correspond. ``"tokens"``: equal tokens in order, and between two
    of them a replaced stretch of equal length, token by token, so that " Dallas" stands for
    " Oakland". ``"position"``: equal numbers. Or a mapping from positions of the first prompt to
    positions of the second; those left out correspond to none.

    Compare graphs that were made and pruned alike: a node that was pruned away is not there.
    Raises MismatchError if the graphs are of different models or dictionaries, InputError if
    ``align`` is unknown, maps two positions to one, or names one that a prompt does not have.
    """
    for name in ("model", "dictionary", "n_layers", "d_vocab"):
        first, second = getattr(graph_a.metadata, name), getattr(graph_b.metadata, name)
        if first != second:
            raise MismatchError(
                f"the graphs' {name} differ: {first!r} and {second!r}; only graphs of one model "
                "through one dictionary have the same nodes"
            )
    positions = _positions(graph_a, graph_b, align)
    nodes = _match_nodes(graph_a, graph_b, positions)
    return Comparison(graph_a, graph_b, positions, nodes, _match_edges(graph_a, graph_b, nodes))


def _positions(a: Graph, b: Graph, align: Align) -> dict[int, int]:
    lengths = len(a.metadata.tokens), len(b.metadata.tokens)
    if isinstance(align, Mapping):
        for name, used, length in zip("ab", (align.keys(), align.values()), lengths, strict=True):
            if wrong := [p for p in used if not 0 <= p < length]:
                raise InputError(f"align names position {wrong[0]}; graph_{name} has {length}")
        if doubled := [p for p, times in Counter(align.values()).items() if times > 1]:
            raise InputError(f"align maps two positions to position {doubled[0]} of graph_b")
        return dict(align)
    if align == "position":
        return {p: p for p in range(min(lengths))}
    if align == "tokens":
        return dict(_by_token(a.metadata.token_ids, b.metadata.token_ids))
    raise InputError(f"align must be 'tokens', 'position' or a mapping, got {align!r}")


def _by_token(a: tuple[int, ...], b: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for tag, start, end, other, last in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and end - start == last - other):
            yield from zip(range(start, end), range(other, last), strict=True)


def _match_nodes(a: Graph, b: Graph, positions: dict[int, int]) -> Match:
    here, there = ({key: row for row, key in enumerate(_keys(graph))} for graph in (a, b))
    if (len(here), len(there)) != (len(a.nodes), len(b.nodes)):
        raise InputError("two nodes of one graph have the same kind, layer, position and index")
    moved = {(k, layer, positions.get(p, -1), i): row for (k, layer, p, i), row in here.items()}
    pairs = [(row, there[key]) for key, row in moved.items() if key in there]
    both = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return Match(both, *(_missing(len(g.nodes), both[:, i]) for i, g in enumerate((a, b))))


def _keys(graph: Graph) -> Iterator[tuple[str, int, int, int | str]]:
    """What a node is. The index of a logit that is no token only counts the targets, so that such
    a one is known by its label."""
    table = graph.nodes
    columns = (table.kind, table.layer, table.position, table.index)
    rows = zip(*(column.tolist() for column in columns), table.labels, strict=True)
    for kind, layer, position, index, label in rows:
        name = KINDS[kind]
        named = name == "logit" and index >= graph.metadata.d_vocab
        yield name, layer, position, label if named else index


def _missing(n: int, found: Int[Tensor, " pair"]) -> Int[Tensor, " rows"]:
    alone = torch.ones(n, dtype=torch.bool)
    alone[found] = False
    return alone.nonzero().flatten()


def _match_edges(a: Graph, b: Graph, nodes: Match) -> EdgeMatch:
    rows_a, rows_b = nodes.both.unbind(1)
    in_a, in_b = a.adjacency != 0, b.adjacency != 0
    targets, sources = (in_a[rows_a][:, rows_a] & in_b[rows_b][:, rows_b]).nonzero().unbind(1)
    both = torch.stack([rows_a[targets], rows_a[sources], rows_b[targets], rows_b[sources]], 1)
    in_a[both[:, 0], both[:, 1]] = False
    in_b[both[:, 2], both[:, 3]] = False
    return EdgeMatch(both, in_a.nonzero(), in_b.nonzero())


def _carried(graph: Graph, edges: Int[Tensor, "edge 2"]) -> float:
    """The share of all influence that goes over these edges."""
    carried = flow(graph.adjacency, graph.target_weights)
    return float(carried[edges[:, 0], edges[:, 1]].sum() / carried.sum().clamp(min=1e-30))


def _share(values: Tensor, rows: Tensor, among: Tensor) -> float:
    return float(values[rows].sum() / values[among].sum().clamp(min=1e-30))


def _by_influence(graph: Graph, rows: Int[Tensor, " rows"]) -> list[Node]:
    found = (graph.nodes[row] for row in rows.tolist())
    return sorted(found, key=lambda node: -node.influence)


def _line(name: str, counted: Counted) -> str:
    both, only_a, only_b, share_a, share_b = counted
    numbers = "".join(f"{n:>8,}" for n in (both, only_a, only_b))
    return f"{name:18}{numbers}{share_a:>8.1%}{share_b:>8.1%}"
