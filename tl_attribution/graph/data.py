"""What an attribution graph holds: nodes, edges, constants and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph.influence import Scores, prune_matrix, score_matrix
from tl_attribution.graph.node_selectors import NodeSelector, select_nodes
from tl_attribution.graph.nodes import NodeTable

GraphT = TypeVar("GraphT", bound="GraphData")
"""The class of a graph, which its parts keep."""


class Certificate(NamedTuple):
    """Exact bounds on what a partial graph leaves out.

    Of ``active`` features, ``expanded`` became nodes. ``unexpanded_influence`` is the share of the
    targets' influence that arrives at the others. Whatever their inputs are, the scores of the
    graph with every feature expanded lie within the two bounds.
    """

    active: int
    expanded: int
    unexpanded_influence: float
    replacement: tuple[float, float]
    completeness: tuple[float, float]


class Answer(NamedTuple):
    """A likely next token at the last position and its probability under the host."""

    token: str
    token_id: int
    probability: float


@dataclass(frozen=True)
class GraphMetadata:
    """Where a graph comes from. ``settings`` holds the arguments of the trace, of pruning and of
    taking a subgraph. ``answer`` is the text whose tokens are explained, "" where it is the next
    token; ``tokens`` are then those of the prompt and of the answer before the last that is
    explained."""

    prompt: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prefix: int
    n_layers: int
    d_vocab: int
    model: str
    dictionary: str
    answers: tuple[Answer, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    answer: str = ""


@dataclass(frozen=True, eq=False)
class GraphData:
    """The tensors of a graph, what follows from them alone, and its parts.

    :class:`tl_attribution.Graph`, the only subclass, explains the fields and adds paths,
    supernodes, files and pages, whose modules import this class only.
    """

    nodes: NodeTable
    adjacency: Float[Tensor, "node node"]
    constant: Float[Tensor, " node"]
    preactivation: Float[Tensor, " node"]
    target_weights: Float[Tensor, " node"]
    metadata: GraphMetadata
    certificate: Certificate

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if self.adjacency.shape != (n, n):
            raise InputError(f"adjacency is {tuple(self.adjacency.shape)}, expected ({n}, {n})")
        if not len(self.constant) == len(self.preactivation) == len(self.target_weights) == n:
            raise InputError(f"constant, preactivation and target_weights must have {n} entries")
        last = len(self.metadata.tokens) - 1
        if n and not 0 <= int(self.nodes.position.min()) <= int(self.nodes.position.max()) <= last:
            raise InputError(f"node positions must be 0 to {last}, as the prompt's tokens")

    @property
    def is_target(self) -> Bool[Tensor, " node"]:
        """Nodes with in-edges: features and logits."""
        return self.nodes.is_kind("feature", "logit")

    @property
    def n_edges(self) -> int:
        """Number of edges that are not zero."""
        return int(self.adjacency.count_nonzero())

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Rows of the members of each supernode, by name."""
        return self.nodes.members()

    def residual(self) -> float:
        """Return max |in-edges + constant − measured pre-activation| over targets, relative to the
        largest pre-activation. The constant is transported, never a difference, so this is a check.
        """
        rows = self.is_target
        missed = self.adjacency[rows].sum(1) + self.constant[rows] - self.preactivation[rows]
        largest = self.preactivation[rows].abs().max().clamp(min=1e-30)
        return float(missed.abs().max() / largest)

    @cached_property
    def _scores(self) -> Scores:
        inputs = self.nodes.is_kind("token", "position")
        errors = self.nodes.is_kind("error")
        return score_matrix(self.adjacency, self.target_weights, inputs, errors)

    def scores(self) -> Scores:
        """Return the replacement and completeness score (methods paper, "Graph scores")."""
        return self._scores

    def prune(self: GraphT, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> GraphT:
        """Keep the nodes that hold ``node_threshold`` of the influence and the edges that hold
        ``edge_threshold`` of what is left; tokens and targets stay. Removed edges go into the
        constant, so that the residual stays meaningful. Node influences are the whole graph's.

        Raises InputError for a threshold outside 0..1.
        """
        always = self.nodes.is_kind("token", "logit") | (self.target_weights > 0)
        kept = prune_matrix(
            self.adjacency,
            self.target_weights,
            self.nodes.is_kind("feature"),
            always,
            node_threshold,
            edge_threshold,
        )
        settings = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
        return self._part(kept.nodes, self.adjacency * kept.edges, settings)

    def subgraph(self: GraphT, nodes: NodeSelector) -> GraphT:
        """Keep these nodes and the edges between them. What comes from other nodes goes into the
        constant, as in :meth:`prune`; node influences are the whole graph's.

        Raises InputError for a node that is not in this graph, or without a target: a graph is
        defined by what it explains.
        """
        kept = torch.zeros(len(self.nodes), dtype=torch.bool)
        kept[list(select_nodes(self.nodes, nodes))] = True
        if not (self.target_weights[kept] > 0).any():
            targets = self.target_weights.nonzero().flatten().tolist()
            raise InputError(
                "a subgraph needs at least one of the nodes that its graph explains; add at least "
                f"one of the targets: {', '.join(self.nodes[row].id for row in targets)}"
            )
        whole = self.metadata.settings.get("subgraph_of", len(self.nodes))
        return self._part(kept, self.adjacency, {"subgraph_of": whole})

    def _part(self: GraphT, kept: Tensor, edges: Tensor, settings: dict[str, Any]) -> GraphT:
        """The nodes ``kept`` with these ``edges``; the other edges go into the constant."""
        adjacency = edges[kept][:, kept]
        lost = (self.adjacency[kept].double().sum(1) - adjacency.double().sum(1)).float()
        return replace(
            self,
            nodes=self.nodes.select(kept),
            adjacency=adjacency,
            constant=self.constant[kept] + lost,
            preactivation=self.preactivation[kept],
            target_weights=self.target_weights[kept],
            metadata=replace(self.metadata, settings={**self.metadata.settings, **settings}),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name: what a file holds besides the JSON header."""
        columns = {f"nodes.{c}": getattr(self.nodes, c) for c in NodeTable.columns()}
        names = ("adjacency", "constant", "preactivation", "target_weights")
        return columns | {name: getattr(self, name) for name in names}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GraphData):
            return NotImplemented
        tensors, others = self.tensors(), other.tensors()
        return (self.metadata, self.certificate, self.nodes.labels, self.nodes.groups) == (
            other.metadata,
            other.certificate,
            other.nodes.labels,
            other.nodes.groups,
        ) and all(torch.equal(tensors[name], others[name]) for name in tensors)

    __hash__ = None  # type: ignore[assignment]  # equality compares tensors; a hash would be costly


def is_pruned(graph: GraphData) -> bool:
    """Whether the graph was pruned (:meth:`Graph.prune`)."""
    return "node_threshold" in graph.metadata.settings


def is_subgraph(graph: GraphData) -> bool:
    """Whether the graph is a part chosen by hand (:meth:`Graph.subgraph`)."""
    return "subgraph_of" in graph.metadata.settings
