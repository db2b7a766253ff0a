"""The attribution graph: nodes, edges, what is left over, and the questions one asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.graph import influence as scoring
from tl_attribution.graph.influence import Scores
from tl_attribution.graph.nodes import NodeTable
from tl_attribution.graph.picking import Pick, pick

if TYPE_CHECKING:
    import networkx

    from tl_attribution.graph.paths import Path as GraphPath
    from tl_attribution.graph.supernodes import Supernodes
    from tl_attribution.graph.upstream import Upstream


class Certificate(NamedTuple):
    """What a partial graph leaves out, exactly.

    ``active`` features were found and ``expanded`` of them became nodes. ``unexpanded_influence``
    is the share of the targets' influence that arrives at the others. Whatever their inputs are,
    the scores of the graph with every feature expanded lie within the two bounds.
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
class About:
    """Where a graph comes from. ``settings`` holds the arguments that made it."""

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


@dataclass(frozen=True)
class Graph:
    """Which node caused which on one prompt (methods paper, "Attribution graphs").

    ``adjacency[t, s]`` is the direct effect of source s on the pre-activation of target t; rows of
    nodes that are not targets are zero. ``constant[t]`` is what reaches t from things that are not
    nodes: biases, the prefix's MLP outputs, and nodes that were left out or pruned.
    ``preactivation[t]`` was measured on the host. For every target the row's sum plus the constant
    is the pre-activation, up to :meth:`residual`. ``target_weights`` says what is explained: the
    probability of a logit, 1 for other targets, 0 for every other node.
    """

    nodes: NodeTable
    adjacency: Float[Tensor, "node node"]
    constant: Float[Tensor, " node"]
    preactivation: Float[Tensor, " node"]
    target_weights: Float[Tensor, " node"]
    about: About
    certificate: Certificate

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if self.adjacency.shape != (n, n):
            raise InputError(f"adjacency is {tuple(self.adjacency.shape)}, expected ({n}, {n})")
        if not len(self.constant) == len(self.preactivation) == len(self.target_weights) == n:
            raise InputError(f"constant, preactivation and target_weights must have {n} entries")
        last = len(self.about.tokens) - 1
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

    def residual(self) -> float:
        """max |in-edges + constant − measured pre-activation| over targets, relative to the largest
        pre-activation. The constant is transported, never a difference, so this is a check."""
        rows = self.is_target
        missed = self.adjacency[rows].sum(1) + self.constant[rows] - self.preactivation[rows]
        largest = self.preactivation[rows].abs().max().clamp(min=1e-30)
        return float(missed.abs().max() / largest)

    @cached_property
    def _scores(self) -> Scores:
        inputs = self.nodes.is_kind("token", "position")
        errors = self.nodes.is_kind("error")
        return scoring.scores(self.adjacency, self.target_weights, inputs, errors)

    def scores(self) -> Scores:
        """Replacement and completeness score of this graph (methods paper, "Graph scores")."""
        return self._scores

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Graph:
        """The nodes holding ``node_threshold`` of the influence and the edges holding
        ``edge_threshold`` of what is left; tokens and targets stay. Removed edges go into the
        constant, so that the residual stays meaningful. Node influences are the whole graph's.

        Raises InputError for a threshold outside 0..1.
        """
        always = self.nodes.is_kind("token", "logit") | (self.target_weights > 0)
        kept = scoring.prune(
            self.adjacency,
            self.target_weights,
            self.nodes.is_kind("feature"),
            always,
            node_threshold,
            edge_threshold,
        )
        settings = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
        return self._part(kept.nodes, self.adjacency * kept.edges, settings)

    def _part(self, kept: Tensor, edges: Tensor, settings: dict[str, Any]) -> Graph:
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
            about=replace(self.about, settings={**self.about.settings, **settings}),
        )

    def subgraph(self, nodes: Pick) -> Graph:
        """These nodes and the edges between them. What comes from other nodes goes into the
        constant, as in :meth:`prune`; node influences are the whole graph's.

        Raises InputError if a node is not of this graph, or if none is a target: a graph is of
        what it explains.
        """
        kept = torch.zeros(len(self.nodes), dtype=torch.bool)
        kept[list(pick(self.nodes, nodes))] = True
        if not (self.target_weights[kept] > 0).any():
            targets = (
                self.nodes[row].id for row in self.target_weights.nonzero().flatten().tolist()
            )
            raise InputError(
                "a subgraph keeps something that is explained; add at least one of the targets: "
                + ", ".join(targets)
            )
        whole = self.about.settings.get("subgraph_of", len(self.nodes))
        return self._part(kept, self.adjacency, {"subgraph_of": whole})

    def group(self, groups: Mapping[str, Pick]) -> Graph:
        """The same graph with these supernodes, in place of any it had (methods paper, "Grouping
        features into supernodes"). Nothing is merged, so influence, scores and paths stay what they
        are; :meth:`supernodes` gives the edges between the groups.

        Raises InputError for a node that is not of this graph or is in two groups, for an empty
        group, and for a name that is empty or a node's id.
        """
        from tl_attribution.graph import supernodes

        return replace(self, nodes=supernodes.grouped(self.nodes, groups))

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Rows of the members of each supernode, by name."""
        return self.nodes.members()

    def supernodes(self) -> Supernodes:
        """The supernodes and all nodes in none, with the summed edges between them."""
        from tl_attribution.graph import supernodes

        return supernodes.summed(self)

    def save(self, path: str | Path) -> None:
        """Write the graph to one safetensors file (see :func:`tl_attribution.load_graph`)."""
        from tl_attribution.graph import storage

        storage.save_graph(self, path)

    def to_json(self, path: str | Path) -> None:
        """Write the graph as Neuronpedia and circuit-tracer's viewer read it. Prune first: every
        edge is a line of text."""
        from tl_attribution.graph import export

        export.save_json(self, path)

    def to_networkx(self) -> networkx.DiGraph:
        """A ``networkx.DiGraph`` with node ids as keys and the columns of :class:`Node` and
        ``weight`` as attributes; edges point from source to target."""
        from tl_attribution.graph import export

        return export.to_networkx(self)

    def paths(
        self, source: Pick | None = None, target: Pick | None = None, *, n: int = 5
    ) -> list[GraphPath]:
        """The ``n`` strongest paths from ``source`` to ``target``; without them, from tokens and
        positions to the graph's targets (see :class:`graph.paths.Path`). A path is as strong as the
        influence that takes it; its ``effect`` has sign and units.

        Raises InputError for a node that is not of this graph and for a negative ``n``.
        """
        from tl_attribution.graph import paths

        return paths.strongest(self, n, source, target)

    def upstream(self, node: Pick) -> list[Upstream]:
        """Everything that ``node`` depends on, directly or over other nodes, the most influential
        first (see :class:`graph.upstream.Upstream`). Raises InputError if it is not one node of
        this graph."""
        from tl_attribution.graph import upstream

        return upstream.of(self, node)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page that shows the graph, without network or scripts."""
        from tl_attribution.files import write_whole
        from tl_attribution.view import page

        write_whole(path, page.render(self).encode())

    def _repr_html_(self) -> str:
        from tl_attribution.view import page

        return page.embed(self)

    def __repr__(self) -> str:
        counts = {
            kind: int(self.nodes.is_kind(kind).sum()) for kind in ("feature", "error", "logit")
        }
        return (
            f"Graph({self.about.prompt!r}, {counts['feature']} features, {counts['error']} errors, "
            f"{counts['logit']} logits, {self.n_edges} edges, residual {self.residual():.1e})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        mine, theirs = tensors(self), tensors(other)
        return (self.about, self.certificate, self.nodes.labels, self.nodes.groups) == (
            other.about,
            other.certificate,
            other.nodes.labels,
            other.nodes.groups,
        ) and all(torch.equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # equality compares tensors; a hash would be costly


def tensors(graph: Graph) -> dict[str, Tensor]:
    """Every tensor of a graph by name: what a file holds besides the JSON header."""
    columns = {f"nodes.{c}": getattr(graph.nodes, c) for c in NodeTable.columns()}
    names = ("adjacency", "constant", "preactivation", "target_weights")
    return columns | {name: getattr(graph, name) for name in names}
