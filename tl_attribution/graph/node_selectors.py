"""Which nodes of a graph somebody means."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from itertools import islice
from operator import index as as_int
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.nodes import Node, NodeTable

NodeSelector = Node | SupportsIndex | str | Tensor | Callable[[Node], bool] | Iterable[Any]
"""How nodes are named: a :class:`Node`, its row, its id or the name of a supernode, a condition on
nodes, a mask or rows as a tensor, or several of these."""

EXPECTED = "a Node, a row, a node's id, a supernode's name, a condition, or several of these"


def select_nodes(table: NodeTable, nodes: NodeSelector) -> tuple[int, ...]:
    """Rows of the nodes meant by ``nodes``, each once, in the graph's order.

    Raises InputError if there are none, or for a node, row or name that this graph does not have.
    """
    rows = sorted(set(_rows(table, nodes)))
    if not rows:
        raise InputError("no node is meant: the list is empty or the condition holds for none")
    return tuple(rows)


def select_node(table: NodeTable, node: NodeSelector) -> int:
    """Row of the one node meant. Raises InputError if it is none, several, or not of this graph."""
    row, *more = select_nodes(table, node)
    if more:
        raise InputError(f"one node is expected here, and {len(more) + 1} are meant")
    return row


def _rows(table: NodeTable, nodes: Any) -> Iterable[int]:
    if isinstance(nodes, Node):
        return [_row_of(table, nodes)]
    if isinstance(nodes, str):
        return _named(table, nodes)
    if isinstance(nodes, Tensor):
        return _from_tensor(table, nodes)
    if callable(nodes):
        return [row for row, node in enumerate(table) if nodes(node)]
    if isinstance(nodes, Iterable):
        return [row for each in nodes for row in _rows(table, each)]
    return [_checked(table, nodes)]


def _checked(table: NodeTable, row: Any) -> int:
    if isinstance(row, bool) or not isinstance(row, SupportsIndex):
        raise InputError(f"{row!r} names no node; expected {EXPECTED}")
    number = as_int(row)
    if not 0 <= number < len(table):
        last = len(table) - 1
        raise InputError(f"there is no row {number} in this graph; its rows are 0 to {last}")
    return number


def _row_of(table: NodeTable, node: Node) -> int:
    """The row of a node of this graph, or of one that was pruned or saved from it."""
    row = table.find(node.kind, node.layer, node.position, node.index)
    if (own := float(table.activation[row])) != node.activation:
        raise InputError(
            f"node {node.id} has activation {node.activation:g} and the node in its place here "
            f"{own:g}: it is of another graph; give its id to mean the place"
        )
    return row


def _named(table: NodeTable, name: str) -> list[int]:
    groups = table.members()
    if name in groups:
        return list(groups[name])
    ids = {node.id: row for row, node in enumerate(table)}
    if name in ids:
        return [ids[name]]
    known = [*groups, *ids]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or islice(known, 3)
    raise InputError(
        f"{name!r} is neither the name of a supernode nor the id of a node of this graph; "
        f"there are for example {', '.join(repr(each) for each in close) or 'none'}"
    )


def _from_tensor(table: NodeTable, nodes: Tensor) -> list[int]:
    if nodes.dtype == torch.bool:
        if nodes.shape != (len(table),):
            raise InputError(
                f"a mask of nodes has one entry a node, ({len(table)},), got {tuple(nodes.shape)}"
            )
        return nodes.nonzero().flatten().tolist()
    return [_checked(table, row) for row in nodes.flatten().tolist()]
