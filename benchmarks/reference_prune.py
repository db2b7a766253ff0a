"""circuit-tracer's pruning and scores of random graphs, for tests/graph/test_influence.py.

It runs in a separate environment, because circuit-tracer pins other versions:

    python -m venv .venv-circuit-tracer
    .venv-circuit-tracer/bin/pip install circuit-tracer==0.5.0 nnsight==0.6.0
    .venv-circuit-tracer/bin/python benchmarks/reference_prune.py \\
        tests/graph/circuit_tracer_prune.json

The random graphs are made here with Python's own generator, whose numbers are the same in every
version, so that the test can make them again instead of reading them from a file.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

THRESHOLDS = ((0.8, 0.98), (0.6, 0.9))
"""Node and edge thresholds: the usual pair and a stricter one."""


class Case(NamedTuple):
    """A graph in circuit-tracer's order: features by layer and position, errors, tokens, logits.

    ``rows[t][s]`` is the edge from s to t, ``places`` the (layer, position) of each feature."""

    n_layers: int
    n_positions: int
    places: list[tuple[int, int]]
    rows: list[list[float]]
    probabilities: list[float]


CASES = tuple(
    (seed, n_layers, n_positions, n_features, n_logits)
    for seed, (n_layers, n_positions, n_features, n_logits) in enumerate(
        [(2, 3, 12, 1), (3, 4, 40, 3), (4, 5, 80, 5), (6, 4, 70, 10), (3, 6, 90, 2)]
    )
)
"""Arguments of :func:`build`, from small to large."""


def build(seed: int, n_layers: int, n_positions: int, n_features: int, n_logits: int) -> Case:
    """A random graph: edges go up in layer and never back in position; a third are missing."""
    draw = random.Random(seed).random
    places = sorted((int(draw() * n_layers), int(draw() * n_positions)) for _ in range(n_features))
    errors = [(layer, p) for layer in range(n_layers) for p in range(n_positions)]
    tokens = [(-1, p) for p in range(n_positions)]
    logits = [(n_layers, n_positions - 1)] * n_logits
    nodes = [*places, *errors, *tokens, *logits]
    targets = {*range(n_features), *range(len(nodes) - n_logits, len(nodes))}

    def edge(target: int, source: int) -> float:
        (to, after), (origin, before) = nodes[target], nodes[source]
        size, present = (2 * draw() - 1) ** 3, draw() > 0.33
        return size if target in targets and origin < to and before <= after and present else 0.0

    rows = [[edge(target, source) for source in range(len(nodes))] for target in range(len(nodes))]
    shares = sorted((draw() ** 3 for _ in range(n_logits)), reverse=True)
    probabilities = [0.95 * share / sum(shares) for share in shares]
    return Case(n_layers, n_positions, places, rows, probabilities)


def bits(mask: Any) -> str:
    """A boolean tensor as hexadecimal digits, first entry in the highest bit."""
    digits = "".join("1" if kept else "0" for kept in mask.flatten().tolist())
    return f"{int(digits, 2):x}"


def reference(case: Case) -> dict[str, Any]:
    """circuit-tracer's masks, cumulative scores and graph scores."""
    import torch
    from circuit_tracer.attribution.targets import LogitTarget
    from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph
    from transformer_lens import HookedTransformerConfig

    size = {"n_layers": case.n_layers, "d_model": 4, "n_ctx": 8, "d_head": 4, "n_heads": 1}
    graph = Graph(
        input_string="",
        input_tokens=torch.arange(case.n_positions),
        active_features=torch.tensor([(*place, i) for i, place in enumerate(case.places)]),
        adjacency_matrix=torch.tensor(case.rows),
        cfg=HookedTransformerConfig(**size, d_vocab=8, act_fn="relu"),
        selected_features=torch.arange(len(case.places)),
        activation_values=torch.ones(len(case.places)),
        logit_targets=[LogitTarget(str(i), i) for i in range(len(case.probabilities))],
        logit_probabilities=torch.tensor(case.probabilities),
        scan="random",
    )
    pruned = {}
    for thresholds in THRESHOLDS:
        nodes, edges, cumulative = prune_graph(graph, *thresholds)
        pruned["{} {}".format(*thresholds)] = {
            "nodes": bits(nodes),
            "edges": bits(edges & (graph.adjacency_matrix != 0)),
        }
    return {
        "pruned": pruned,
        "cumulative": [round(value, 8) for value in cumulative.tolist()],
        "scores": compute_graph_scores(graph),
    }


def main(path: str) -> None:
    """Write the results for every case as JSON."""
    results = [{"case": case, **reference(build(*case))} for case in CASES]
    whole = {"made_with": "circuit-tracer 0.5.0", "results": results}
    Path(path).write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
