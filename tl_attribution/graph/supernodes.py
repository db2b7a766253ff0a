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
from tl_attribution.graph.data import GraphData
from tl_attribution.graph.influence import flow
from tl_attribution.graph.node_selectors import NodeSelector, select_nodes
from tl_attribution.graph.nodes import NodeTable

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Supernodes:
    """A graph with its nodes in groups: the named ones first, then each node in none, by its id.

    ``members`` are rows of the graph. Targets are rows and sources columns, as in the adjacency.
    ``weights[T, S]`` is the sum of the edges from members of S to members of T, with their signs:
    what S adds to the pre-activations of T together. ``flow[T, S]`` is the influence that goes over
    those edges. The diagonals hold the edges within a group. ``influence`` is what leaves a group
    to others: for a single node its influence, for a group its members' without what flows between
    them, so that nothing is counted twice on its way through. Groups can depend on one another in a
    cycle, where one has members below and above another.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    weights: Float[Tensor, "supernode supernode"]
    flow: Float[Tensor, "supernode supernode"]
    influence: Float[Tensor, " supernode"]

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int:
        """Return the row of a supernode's name or a single node's id. Raises InputError if there is
        none."""
        if name not in self.names:
            raise InputError(f"no supernode is named {name!r}, and no single node has this id")
        return self.names.index(name)

    def to_networkx(self) -> networkx.DiGraph:
        """Return a ``networkx.DiGraph`` with names as keys, ``members`` and ``influence`` as
        attributes, and ``weight`` and ``flow`` on the edges, from source to target; edges within a
        group are left out."""
        import networkx

        result = networkx.DiGraph()
        for name, members, influence in zip(
            self.names, self.members, self.influence.tolist(), strict=True
        ):
            result.add_node(name, members=members, influence=influence)
        for target, source in self.flow.nonzero().tolist():
            if target != source:
                values = float(self.weights[target, source]), float(self.flow[target, source])
                result.add_edge(
                    self.names[source], self.names[target], weight=values[0], flow=values[1]
                )
        return result


def assign_groups(nodes: NodeTable, groups: Mapping[str, NodeSelector]) -> NodeTable:
    """Return the nodes with these supernodes, in place of any they had. Raises InputError as
    :meth:`Graph.group`."""
    names = [""] * len(nodes)
    ids = {node.id for node in nodes}
    for name, selector in groups.items():
        if not isinstance(name, str) or not name or name in ids:
            raise InputError(
                f"a supernode cannot be named {name!r}; expected text that is not a node's id"
            )
        for row in _members(nodes, name, selector):
            if names[row]:
                raise InputError(
                    f"node {nodes[row].id} is in two groups, {names[row]!r} and {name!r}; a node "
                    "can be in only one supernode"
                )
            names[row] = name
    return replace(nodes, groups=tuple(names))


def _members(nodes: NodeTable, name: str, selector: NodeSelector) -> tuple[int, ...]:
    try:
        return select_nodes(nodes, selector)
    except InputError as error:
        raise InputError(f"supernode {name!r}: {error}") from error


def sum_groups(graph: GraphData) -> Supernodes:
    """Sum the edges between the supernodes of a graph and its single nodes."""
    named = graph.nodes.members()
    single = [row for row, name in enumerate(graph.nodes.groups) if not name]
    names = [*named, *(graph.nodes[row].id for row in single)]
    members = [*named.values(), *((row,) for row in single)]
    group_of = torch.empty(len(graph.nodes), dtype=torch.long)
    for group, rows in enumerate(members):
        group_of[list(rows)] = group
    carried = _sum(flow(graph.adjacency, graph.target_weights), group_of, len(members))
    return Supernodes(
        tuple(names),
        tuple(members),
        weights=_sum(graph.adjacency, group_of, len(members)),
        flow=carried,
        influence=carried.sum(0) - carried.diagonal(),
    )


def _sum(edges: Tensor, group_of: Tensor, n: int) -> Tensor:
    """Add up the rows and the columns of ``edges`` that belong to each group."""
    rows = edges.new_zeros(n, edges.shape[1]).index_add_(0, group_of, edges)
    return edges.new_zeros(n, n).index_add_(1, group_of, rows)
