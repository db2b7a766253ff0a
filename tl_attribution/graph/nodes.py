"""Nodes of an attribution graph, as a table that holds all index arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.errors import InputError

NodeKind = Literal["feature", "error", "token", "position", "logit"]
"""What a node stands for."""

KINDS: tuple[NodeKind, ...] = get_args(NodeKind)
"""Node kinds, in the order in which they stand in a graph."""

LEAF_LAYER = -1
"""``layer`` of token and position nodes, which lie below the first block."""


class Node(NamedTuple):
    """One node of a graph.

    ``layer`` is -1 for tokens and positions and ``n_layers`` for logits. ``index`` is the feature's
    index, the token id of a token or logit, the position of a position node, 0 for an error.
    ``activation`` is set for features only (0 elsewhere). ``influence`` is the node's share of the
    influence on the targets (methods paper, "Graph pruning"). ``id`` is unique within the graph.
    ``group`` names the supernode it belongs to, "" if none (see :meth:`Graph.group`).
    """

    kind: NodeKind
    layer: int
    position: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index
    activation: float
    influence: float
    label: str
    id: str
    group: str = ""


@dataclass(frozen=True)
class NodeTable:
    """All nodes of a graph as parallel columns.

    ``kind`` indexes :data:`KINDS`. ``cumulative`` is the share of all influence held by the nodes
    at least as influential as this one: a node survives pruning at threshold t if it is at most t
    (as in Neuronpedia's ``influence`` field). ``groups`` are the names of the nodes' supernodes, ""
    for a node in none; left out, no node is in one.
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    position: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    influence: Float[Tensor, " node"]
    cumulative: Float[Tensor, " node"]
    labels: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", ("",) * len(self.kind))
        names = (*self.columns(), "labels", "groups")
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) != 1:
            raise InputError(f"node columns differ in length: {lengths}")
        if len(self.kind) and not 0 <= int(self.kind.min()) <= int(self.kind.max()) < len(KINDS):
            raise InputError(f"node kinds must be 0 to {len(KINDS) - 1}, one of {KINDS}")

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the names of the tensor columns."""
        return tuple(f.name for f in fields(cls) if f.name not in ("labels", "groups"))

    @classmethod
    def build(
        cls,
        kind: NodeKind,
        layer: Int[Tensor, " node"],
        position: Int[Tensor, " node"],
        index: Int[Tensor, " node"],
        labels: tuple[str, ...],
        activation: Float[Tensor, " node"] | None = None,
    ) -> NodeTable:
        """Return nodes of one kind, with influence still zero."""
        zeros = torch.zeros(len(layer))
        return cls(
            kind=torch.full((len(layer),), KINDS.index(kind)),
            layer=layer,
            position=position,
            index=index,
            activation=zeros if activation is None else activation,
            influence=zeros,
            cumulative=zeros,
            labels=labels,
        )

    @classmethod
    def concatenate(cls, parts: list[NodeTable]) -> NodeTable:
        """Concatenate tables in order."""
        tensors = {c: torch.cat([getattr(p, c) for p in parts]) for c in cls.columns()}
        labels = tuple(label for p in parts for label in p.labels)
        return cls(**tensors, labels=labels, groups=tuple(g for p in parts for g in p.groups))

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, row: int) -> Node:
        kind = KINDS[int(self.kind[row])]
        layer, position, index = (
            int(column[row]) for column in (self.layer, self.position, self.index)
        )
        return Node(
            kind,
            layer,
            position,
            index,
            float(self.activation[row]),
            float(self.influence[row]),
            self.labels[row],
            node_id(kind, layer, position, index),
            self.groups[row],
        )

    def __iter__(self) -> Iterator[Node]:
        return (self[row] for row in range(len(self)))

    def is_kind(self, *kinds: NodeKind) -> Bool[Tensor, " node"]:
        """Return the mask of the nodes of these kinds."""
        return torch.isin(self.kind, torch.tensor([KINDS.index(kind) for kind in kinds]))

    def select(self, keep: Bool[Tensor, " node"]) -> NodeTable:
        """Return the nodes where ``keep`` is true, in order."""
        tensors = {c: getattr(self, c)[keep] for c in self.columns()}
        flags = keep.tolist()
        return NodeTable(
            **tensors,
            labels=tuple(compress(self.labels, flags)),
            groups=tuple(compress(self.groups, flags)),
        )

    def with_influence(self, influence: Float[Tensor, " node"]) -> NodeTable:
        """Return the nodes with these influences and the cumulative shares of them."""
        ordered, order = influence.sort(descending=True)
        cumulative = torch.empty_like(influence)
        cumulative[order] = ordered.cumsum(0) / ordered.sum().clamp(min=1e-30)
        return replace(self, influence=influence, cumulative=cumulative)

    def members(self) -> dict[str, tuple[int, ...]]:
        """Return the rows of every supernode by name, in the order of their first nodes."""
        members: dict[str, list[int]] = {}
        for row, name in enumerate(self.groups):
            if name:
                members.setdefault(name, []).append(row)
        return {name: tuple(rows) for name, rows in members.items()}

    def find(self, kind: NodeKind, layer: int, position: int, index: int = 0) -> int:
        """Return the row of one node. Raises InputError if the graph has no such node."""
        match = self.is_kind(kind) & (self.layer == layer) & (self.position == position)
        rows = (match & (self.index == index)).nonzero().flatten().tolist()
        if not rows:
            raise InputError(
                f"no {kind} node at layer {layer}, position {position}, index {index} in this "
                "graph; it may be inactive on this prompt or have been pruned"
            )
        return rows[0]


def node_id(kind: NodeKind, layer: int, position: int, index: int) -> str:
    """Return an id unique in the graph, in the field's form where that form is unambiguous.

    Features are ``layer_index_position`` and logits the same with ``layer`` one above the last
    block, as circuit-tracer writes them. Its error nodes, ``0_layer_position``, can be the id of a
    feature of layer 0; ours are ``layer_error_position``.
    """
    if kind == "error":
        return f"{layer}_error_{position}"
    if kind == "token":
        return f"E_{index}_{position}"
    if kind == "position":
        return f"P_{index}_{position}"
    return f"{layer + 1 if kind == 'logit' else layer}_{index}_{position}"
