"""What a node depends on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tl_attribution.graph import influence as scoring
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.node_selectors import NodeSelector, select_node
from tl_attribution.graph.nodes import Node


class Upstream(NamedTuple):
    """A node that another depends on.

    ``influence`` is the share of the other's input that comes through this node, over all paths and
    counting sizes of edges without signs; ``effect`` is what comes from it to the other's
    pre-activation over all paths, in its units and with its sign: the sums of
    :attr:`Path.strength` and :attr:`Path.effect` over every path between the two.
    """

    node: Node
    influence: float
    effect: float


def of(graph: Graph, node: NodeSelector) -> list[Upstream]:
    """Every node with a path to ``node``, the most influential first, exactly.

    Raises InputError if ``node`` is not one node of this graph, or if the graph has a cycle.
    """
    row = select_node(graph.nodes, node)
    only = torch.zeros(len(graph.nodes))
    only[row] = 1.0
    influence = scoring.influence(scoring.normalize(graph.adjacency), only)
    effects = scoring.effects(graph.adjacency, graph.preactivation, row)
    order = influence.argsort(descending=True, stable=True)
    rows = order[influence[order] > 0].tolist()
    return [Upstream(graph.nodes[r], float(influence[r]), float(effects[r])) for r in rows]
