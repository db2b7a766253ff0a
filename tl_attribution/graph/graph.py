"""The attribution graph: nodes, edges, what is left over, and the questions one asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tl_attribution.files import write_whole
from tl_attribution.graph.data import GraphData
from tl_attribution.graph.export import save_json, to_networkx
from tl_attribution.graph.node_selectors import NodeSelector
from tl_attribution.graph.paths import GraphPath, strongest_paths
from tl_attribution.graph.saving import save_graph
from tl_attribution.graph.supernodes import Supernodes, assign_groups, sum_groups
from tl_attribution.graph.upstream import Upstream, find_upstream

if TYPE_CHECKING:
    import networkx


class Graph(GraphData):
    """Which node caused which on one prompt (methods paper, "Attribution graphs").

    ``adjacency[t, s]`` is the direct effect of source s on the pre-activation of target t; rows of
    nodes that are not targets are zero. ``constant[t]`` is what reaches t from things that are not
    nodes: biases, the prefix's MLP outputs, and nodes that were left out or pruned.
    ``preactivation[t]`` was measured on the host. For every target the row's sum plus the constant
    is the pre-activation, up to :meth:`residual`. ``target_weights`` says what is explained: the
    probability of a logit, 1 for other targets, 0 for every other node.
    """

    def paths(
        self, source: NodeSelector | None = None, target: NodeSelector | None = None, *, n: int = 5
    ) -> list[GraphPath]:
        """Find the ``n`` strongest paths from ``source`` to ``target``; without them, from tokens
        and positions to the graph's targets (see :class:`~tl_attribution.graph.paths.GraphPath`).
        A path's ``strength`` is the influence along it; its ``effect`` has sign and units.

        Raises InputError for a node that is not in this graph and for a negative ``n``.
        """
        return strongest_paths(self, n, source, target)

    def upstream(self, node: NodeSelector) -> list[Upstream]:
        """Find everything that ``node`` depends on, directly or over other nodes, the most
        influential first (see :class:`~tl_attribution.graph.upstream.Upstream`).

        Raises InputError unless ``node`` selects exactly one node of this graph.
        """
        return find_upstream(self, node)

    def group(self, groups: Mapping[str, NodeSelector]) -> Graph:
        """Return the same graph with these supernodes, in place of any it had (methods paper,
        "Grouping features into supernodes"). Nothing is merged, so influence, scores and paths stay
        what they are; :meth:`supernodes` gives the edges between the groups.

        Raises InputError for a node that is not in this graph or is in two groups, for an empty
        group, and for a name that is empty or a node's id.
        """
        return replace(self, nodes=assign_groups(self.nodes, groups))

    def supernodes(self) -> Supernodes:
        """Return the supernodes and all nodes in none, with the summed edges between them."""
        return sum_groups(self)

    def save(self, path: str | Path) -> None:
        """Write the graph to one safetensors file (see :func:`tl_attribution.load_graph`)."""
        save_graph(self, path)

    def to_json(self, path: str | Path) -> None:
        """Write the graph as Neuronpedia and circuit-tracer's viewer read it. Prune first: every
        edge is a line of text."""
        save_json(self, path)

    def to_networkx(self) -> networkx.DiGraph:
        """Return a ``networkx.DiGraph`` with node ids as keys and the columns of :class:`Node` and
        ``weight`` as attributes; edges point from source to target."""
        return to_networkx(self)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page that shows the graph, without network or scripts."""
        from tl_attribution.view import page

        write_whole(path, page.render(self).encode())

    def _repr_html_(self) -> str:
        from tl_attribution.view import page

        return page.embed(self)

    def __repr__(self) -> str:
        features, errors, logits = (
            int(self.nodes.is_kind(kind).sum()) for kind in ("feature", "error", "logit")
        )
        return (
            f"Graph({self.metadata.prompt!r}, {features} features, {errors} errors, "
            f"{logits} logits, {self.n_edges} edges, residual {self.residual():.1e})"
        )
