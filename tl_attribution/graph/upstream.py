"""Everything that a node depends on, with its influence and its signed effect."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tl_attribution.graph.data import GraphData
from tl_attribution.graph.influence import effects, influence, normalize
from tl_attribution.graph.node_selectors import NodeSelector, select_node
from tl_attribution.graph.nodes import Node


class Upstream(NamedTuple):
    """A node that another depends on.

    ``influence`` is the share of the other's input that comes through this node, over all paths and
    counting sizes of edges without signs; ``effect`` is what comes from it to the other's
    pre-activation over all paths, in its units and with its sign: the sums of
    :attr:`GraphPath.strength` and :attr:`GraphPath.effect` over every path between the two.
    """

    node: Node
    influence: float
    effect: float


def find_upstream(graph: GraphData, node: NodeSelector) -> list[Upstream]:
    """Find every node with a path to ``node``, the most influential first, exactly.

    Raises InputError unless ``node`` selects exactly one node of this graph, or if the graph has a
    cycle.
    """
    target = select_node(graph.nodes, node)
    weights = torch.zeros(len(graph.nodes))
    weights[target] = 1.0
    shares = influence(normalize(graph.adjacency), weights)
    signed = effects(graph.adjacency, graph.preactivation, target)
    order = shares.argsort(descending=True, stable=True)
    rows = order[shares[order] > 0].tolist()
    return [Upstream(graph.nodes[r], float(shares[r]), float(signed[r])) for r in rows]
