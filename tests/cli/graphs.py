"""A graph small enough to read, with text in it that would do harm if it were interpreted."""

from __future__ import annotations

import torch

from tl_attribution.graph.data import Answer, Certificate, GraphMetadata
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import influence, normalize
from tl_attribution.graph.nodes import NodeTable

HOSTILE = " [red]Dallas[/red]\x1b[31m:smile:"
TOKENS = ("Fact", HOSTILE)
EDGES = {(0, 3): 0.5, (0, 4): 2.0, (1, 0): 1.5, (1, 2): -0.5, (1, 4): 0.01, (5, 1): 3.0, (5, 4): -1}


def small_graph() -> Graph:
    """Two features, an error, two tokens and a logit; one edge is too weak to survive pruning."""
    nodes = NodeTable.concatenate(
        [
            table("feature", [0, 1], [1, 1], [7, 3], ["", "[bold]Texas"]),
            table("error", [0], [1], [0], [""]),
            table("token", [-1, -1], [0, 1], [4, 5], list(TOKENS)),
            table("logit", [2], [1], [9], [" Austin"]),
        ]
    )
    adjacency = torch.zeros(6, 6)
    for (target, source), weight in EDGES.items():
        adjacency[target, source] = weight
    constant, weights = torch.full((6,), 0.25), torch.tensor([0, 0, 0, 0, 0, 0.9])
    return Graph(
        nodes=nodes.with_influence(influence(normalize(adjacency), weights)),
        adjacency=adjacency,
        constant=constant,
        preactivation=adjacency.sum(1) + constant,
        target_weights=weights,
        metadata=GraphMetadata(
            prompt="".join(TOKENS),
            token_ids=(4, 5),
            tokens=TOKENS,
            prefix=0,
            n_layers=2,
            d_vocab=50,
            model="toy",
            dictionary="neurons",
            answers=(Answer(" Austin", 9, 0.9), Answer(" Paris", 8, 0.05)),
        ),
        certificate=Certificate(2, 2, 0.0, (0.8, 0.8), (0.9, 0.9)),
    )


def table(
    kind: str, layers: list[int], positions: list[int], indices: list[int], labels: list[str]
) -> NodeTable:
    columns = (torch.tensor(column) for column in (layers, positions, indices))
    return NodeTable.build(kind, *columns, tuple(labels))
