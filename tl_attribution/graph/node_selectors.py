"""Select nodes of a graph by row, id, supernode, predicate or mask."""

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
"""What selects nodes: a :class:`Node`, its row, its id or the name of a supernode, a predicate on
nodes, a mask or rows as a tensor, or several of these."""

EXPECTED = "a Node, a row, a node's id, a supernode's name, a predicate, or several of these"


def select_nodes(table: NodeTable, nodes: NodeSelector) -> tuple[int, ...]:
    """Return the rows of the selected nodes, each once, in the graph's order.

    Raises InputError if there are none, or for a node, row or name that this graph does not have.
    """
    rows = sorted(set(_rows(table, nodes)))
    if not rows:
        raise InputError(
            "expected at least one node, got none: the selection is empty or no node meets the "
            "predicate"
        )
    return tuple(rows)


def select_node(table: NodeTable, node: NodeSelector) -> int:
    """Return the row of one node. Raises InputError for none, several, or one that is not in this
    graph."""
    row, *more = select_nodes(table, node)
    if more:
        raise InputError(f"expected one node, got {len(more) + 1}")
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
        return [row for selector in nodes for row in _rows(table, selector)]
    return [_checked(table, nodes)]


def _checked(table: NodeTable, row: Any) -> int:
    if isinstance(row, bool) or not isinstance(row, SupportsIndex):
        raise InputError(f"expected {EXPECTED}, got {row!r}")
    number = as_int(row)
    if not 0 <= number < len(table):
        last = len(table) - 1
        raise InputError(f"this graph has rows 0 to {last}, got row {number}")
    return number


def _row_of(table: NodeTable, node: Node) -> int:
    """The row of a node of this graph, or of one that was pruned or saved from it."""
    row = table.find(node.kind, node.layer, node.position, node.index)
    activation = float(table.activation[row])
    if activation != node.activation:
        raise InputError(
            f"node {node.id} has activation {node.activation:g}, but in this graph {activation:g}: "
            "it belongs to another graph; select it by its id"
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
        f"expected for example {', '.join(map(repr, close)) or 'none, as the graph is empty'}"
    )


def _from_tensor(table: NodeTable, nodes: Tensor) -> list[int]:
    if nodes.dtype == torch.bool:
        if nodes.shape != (len(table),):
            raise InputError(
                "expected a mask with one entry per node, of shape "
                f"({len(table)},), got {tuple(nodes.shape)}"
            )
        return nodes.nonzero().flatten().tolist()
    return [_checked(table, row) for row in nodes.flatten().tolist()]
