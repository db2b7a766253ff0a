"""Compare the graphs of two prompts: the nodes and edges that they share, and the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, NamedTuple, Union, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import flow
from tl_attribution.graph.nodes import KINDS, Node, NodeKind

Alignment = Literal["tokens", "position"]
"""How positions of two prompts correspond: by equal tokens in order, or by equal numbers."""

ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)

Align = Union[Alignment, Mapping[int, int]]  # noqa: UP007  # evaluated on Python 3.10


class NodeMatch(NamedTuple):
    """Nodes that two graphs share, as pairs of rows (in the first graph, in the second), and the
    rows of those in only one of them, in the order of the graph."""

    both: Int[Tensor, "pair 2"]
    only_a: Int[Tensor, " a"]
    only_b: Int[Tensor, " b"]


class EdgeMatch(NamedTuple):
    """Edges that two graphs share, and those in only one of them. An edge is its target's and its
    source's row; shared ones are rows in the first graph, then in the second."""

    both: Int[Tensor, "edge 4"]
    only_a: Int[Tensor, "edges_a 2"]
    only_b: Int[Tensor, "edges_b 2"]


class Overlap(NamedTuple):
    """Number of nodes or edges in both graphs and in only one, and for each graph the share of
    their influence that is in the shared ones (0 to 1; 0 where nothing has influence)."""

    both: int
    only_a: int
    only_b: int
    share_a: float
    share_b: float


@dataclass(frozen=True)
class Comparison:
    """Two graphs of one model and dictionary side by side; ``positions`` maps positions of the
    first prompt to the corresponding ones of the second."""

    a: Graph
    b: Graph
    positions: dict[int, int]
    nodes: NodeMatch
    edges: EdgeMatch

    def count(self, *kinds: NodeKind) -> Overlap:
        """Count the shared nodes of these kinds; without kinds, of all."""
        in_a, in_b = (g.nodes.is_kind(*(kinds or KINDS)) for g in (self.a, self.b))
        return self._overlap(in_a, in_b)

    def by_layer(self) -> dict[int, Overlap]:
        """Count the shared features of each layer."""
        tables = (self.a.nodes, self.b.nodes)
        return {
            layer: self._overlap(*(t.is_kind("feature") & (t.layer == layer) for t in tables))
            for layer in range(self.a.metadata.n_layers)
        }

    def _overlap(self, in_a: Bool[Tensor, " a"], in_b: Bool[Tensor, " b"]) -> Overlap:
        rows_a, rows_b = self.nodes.both[in_a[self.nodes.both[:, 0]]].unbind(1)
        return Overlap(
            len(rows_a),
            int(in_a[self.nodes.only_a].sum()),
            int(in_b[self.nodes.only_b].sum()),
            _share(self.a.nodes.influence, rows_a, in_a),
            _share(self.b.nodes.influence, rows_b, in_b),
        )

    def count_edges(self) -> Overlap:
        """Count the shared edges, and the share of each graph's influence that goes over them."""
        edges = self.edges
        return Overlap(
            len(edges.both),
            len(edges.only_a),
            len(edges.only_b),
            _carried(self.a, edges.both[:, :2]),
            _carried(self.b, edges.both[:, 2:]),
        )

    def shared(self) -> list[tuple[Node, Node]]:
        """Return the shared nodes as pairs, in the first graph and in the second, those with the
        most influence in both first."""
        pairs = [(self.a.nodes[i], self.b.nodes[j]) for i, j in self.nodes.both.tolist()]
        return sorted(pairs, key=lambda pair: -min(pair[0].influence, pair[1].influence))

    def only_a(self) -> list[Node]:
        """Return the nodes that only the first graph has, the most influential first."""
        return _by_influence(self.a, self.nodes.only_a)

    def only_b(self) -> list[Node]:
        """Return the nodes that only the second graph has, the most influential first."""
        return _by_influence(self.b, self.nodes.only_b)

    def __str__(self) -> str:
        rows = [(f"features, layer {layer}", c) for layer, c in self.by_layer().items()]
        rows += [(f"{kind}s", self.count(kind)) for kind in KINDS]
        rows += [("edges", self.count_edges())]
        head = f"{'':18}{'both':>8}{'only a':>8}{'only b':>8}{'of a':>8}{'of b':>8}"
        return "\n".join([head, *(_line(name, overlap) for name, overlap in rows)])


def compare(graph_a: Graph, graph_b: Graph, *, align: Align = "tokens") -> Comparison:
    """Match the nodes and edges of two graphs. Nodes are the same if kind, layer and index are (a
    feature's number, a token's id) and their positions correspond; edges, if both ends are.

    ``align`` says which positions correspond. ``"tokens"``: equal tokens in order, and between two
    of them a replaced stretch of equal length, token by token, so that " Dallas" corresponds to
    " Oakland". ``"position"``: equal numbers. Or a mapping from positions of the first prompt to
    positions of the second; those left out correspond to none.

    Compare graphs that were traced and pruned with the same settings: a node that was pruned away
    is missing. Raises MismatchError if the graphs are of different models or dictionaries,
    InputError if ``align`` is unknown, maps two positions to one, or names one that a prompt does
    not have.
    """
    for name in ("model", "dictionary", "n_layers", "d_vocab"):
        first, second = getattr(graph_a.metadata, name), getattr(graph_b.metadata, name)
        if first != second:
            raise MismatchError(
                "expected two graphs of one model and one dictionary, which share nodes; their "
                f"{name} differ: {first!r} and {second!r}"
            )
    positions = _positions(graph_a, graph_b, align)
    nodes = _match_nodes(graph_a, graph_b, positions)
    return Comparison(graph_a, graph_b, positions, nodes, _match_edges(graph_a, graph_b, nodes))


def _positions(a: Graph, b: Graph, align: str | Mapping[int, int]) -> dict[int, int]:
    lengths = len(a.metadata.tokens), len(b.metadata.tokens)
    if isinstance(align, Mapping):
        sides = zip("ab", (align.keys(), align.values()), lengths, strict=True)
        for name, positions, length in sides:
            if wrong := [p for p in positions if not 0 <= p < length]:
                raise InputError(
                    f"expected positions 0 to {length - 1} of graph_{name} in align, got {wrong[0]}"
                )
        if doubled := [p for p, times in Counter(align.values()).items() if times > 1]:
            raise InputError(f"align maps two positions to position {doubled[0]} of graph_b")
        return dict(align)
    if align == "position":
        return {p: p for p in range(min(lengths))}
    if align == "tokens":
        return dict(_by_token(a.metadata.token_ids, b.metadata.token_ids))
    choices = ", ".join(map(repr, ALIGNMENTS))
    raise InputError(f"expected align to be {choices} or a mapping of positions, got {align!r}")


def _by_token(a: tuple[int, ...], b: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for tag, start, end, other, last in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and end - start == last - other):
            yield from zip(range(start, end), range(other, last), strict=True)


def _match_nodes(a: Graph, b: Graph, positions: dict[int, int]) -> NodeMatch:
    rows_a, rows_b = ({key: row for row, key in enumerate(_keys(graph))} for graph in (a, b))
    if (len(rows_a), len(rows_b)) != (len(a.nodes), len(b.nodes)):
        raise InputError("two nodes of one graph have the same kind, layer, position and index")
    moved = {(k, layer, positions.get(p, -1), i): row for (k, layer, p, i), row in rows_a.items()}
    pairs = [(row, rows_b[key]) for key, row in moved.items() if key in rows_b]
    both = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return NodeMatch(both, *(_missing(len(g.nodes), both[:, i]) for i, g in enumerate((a, b))))


def _keys(graph: Graph) -> Iterator[tuple[str, int, int, int | str]]:
    """What identifies a node. The index of a logit that is not a token only counts the targets, so
    its label identifies it."""
    table = graph.nodes
    columns = (table.kind, table.layer, table.position, table.index)
    rows = zip(*(column.tolist() for column in columns), table.labels, strict=True)
    for kind, layer, position, index, label in rows:
        name = KINDS[kind]
        by_label = name == "logit" and index >= graph.metadata.d_vocab
        yield name, layer, position, label if by_label else index


def _missing(n: int, shared: Int[Tensor, " pair"]) -> Int[Tensor, " rows"]:
    unshared = torch.ones(n, dtype=torch.bool)
    unshared[shared] = False
    return unshared.nonzero().flatten()


def _match_edges(a: Graph, b: Graph, nodes: NodeMatch) -> EdgeMatch:
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
    nodes = (graph.nodes[row] for row in rows.tolist())
    return sorted(nodes, key=lambda node: -node.influence)


def _line(name: str, overlap: Overlap) -> str:
    both, only_a, only_b, share_a, share_b = overlap
    numbers = "".join(f"{n:>8,}" for n in (both, only_a, only_b))
    return f"{name:18}{numbers}{share_a:>8.1%}{share_b:>8.1%}"
