"""Supernodes: groups of nodes with one role, and the summed edges between them (methods paper,
"Grouping features into supernodes")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import flow
from tl_attribution.graph.node_selectors import NodeSelector, select_nodes
from tl_attribution.graph.nodes import NodeTable

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Supernodes:
    """A graph seen as groups: the named ones first, then every node in none, by its id.

    ``members`` are rows of the graph. Targets are rows and sources columns, as in the adjacency.
    ``weights[T, S]`` is the sum of the edges from members of S to members of T, with their signs:
    what S adds to the pre-activations of T together. ``flow[T, S]`` is the influence that goes over
    those edges. The diagonals hold the edges within a group. ``influence`` is what leaves a group
    to others: for a single node its own influence, for a group its members' without what flows
    between them, so that nothing is counted twice on its way through. Groups can depend on one
    another in a circle, where one has members below and above another.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    weights: Float[Tensor, "supernode supernode"]
    flow: Float[Tensor, "supernode supernode"]
    influence: Float[Tensor, " supernode"]

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int:
        """Row of a supernode or of a single node's id. Raises InputError if there is none."""
        if name not in self.names:
            raise InputError(f"no supernode is named {name!r}, and no single node has this id")
        return self.names.index(name)

    def to_networkx(self) -> networkx.DiGraph:
        """A ``networkx.DiGraph`` with names as keys, ``members`` and ``influence`` as attributes,
        and ``weight`` and ``flow`` on the edges, from source to target; edges within a group are
        left out."""
        import networkx

        result = networkx.DiGraph()
        for name, members, through in zip(
            self.names, self.members, self.influence.tolist(), strict=True
        ):
            result.add_node(name, members=members, influence=through)
        for target, source in self.flow.nonzero().tolist():
            if target != source:
                values = float(self.weights[target, source]), float(self.flow[target, source])
                result.add_edge(
                    self.names[source], self.names[target], weight=values[0], flow=values[1]
                )
        return result


def grouped(nodes: NodeTable, groups: Mapping[str, NodeSelector]) -> NodeTable:
    """The nodes with these supernodes, in place of any they had. Raises InputError as
    :meth:`Graph.group`."""
    names = [""] * len(nodes)
    ids = {node.id for node in nodes}
    for name, wanted in groups.items():
        if not isinstance(name, str) or not name or name in ids:
            raise InputError(
                f"a supernode cannot be named {name!r}; give some text that is no node's id"
            )
        for row in _members(nodes, name, wanted):
            if names[row]:
                raise InputError(
                    f"node {nodes[row].id} is in two groups, {names[row]!r} and {name!r}; a node "
                    "is in one supernode at most"
                )
            names[row] = name
    return replace(nodes, groups=tuple(names))


def _members(nodes: NodeTable, name: str, wanted: NodeSelector) -> tuple[int, ...]:
    try:
        return select_nodes(nodes, wanted)
    except InputError as error:
        raise InputError(f"supernode {name!r}: {error}") from error


def summed(graph: Graph) -> Supernodes:
    """The supernodes of a graph and the single nodes, with the edges between them summed."""
    named = graph.nodes.members()
    single = [row for row, name in enumerate(graph.nodes.groups) if not name]
    names = [*named, *(graph.nodes[row].id for row in single)]
    members = [*named.values(), *((row,) for row in single)]
    place = torch.empty(len(graph.nodes), dtype=torch.long)
    for group, rows in enumerate(members):
        place[list(rows)] = group
    carried = _sum(flow(graph.adjacency, graph.target_weights), place, len(members))
    return Supernodes(
        tuple(names),
        tuple(members),
        weights=_sum(graph.adjacency, place, len(members)),
        flow=carried,
        influence=carried.sum(0) - carried.diagonal(),
    )


def _sum(edges: Tensor, place: Tensor, n: int) -> Tensor:
    """``edges`` with the rows and the columns of each place added up."""
    rows = edges.new_zeros(n, edges.shape[1]).index_add_(0, place, edges)
    return edges.new_zeros(n, n).index_add_(1, place, rows)
