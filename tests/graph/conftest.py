"""Graphs to test with: random ones of any size, and one small enough to work out by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tl_attribution.graph.data import Answer, Certificate, GraphMetadata
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import influence, normalize
from tl_attribution.graph.nodes import NodeTable


def _table(
    n_layers: int, tokens: list[str], features: list[tuple[int, int, int]], answers: list[str]
) -> NodeTable:
    n = len(tokens)
    places = torch.tensor(features, dtype=torch.long).reshape(-1, 3)
    layers, positions = torch.arange(n_layers).repeat_interleave(n), torch.arange(n)
    bottom, last = torch.full((n,), -1), torch.full((len(answers),), n - 1)
    names = tuple(f"feature {i}" if i % 2 else "" for i in range(len(features)))
    strength = torch.arange(1, len(features) + 1) / 4
    everywhere, top = positions.repeat(n_layers), torch.full((len(answers),), n_layers)
    ids = torch.arange(len(answers)) + 5
    return NodeTable.concatenate(
        [
            NodeTable.build("feature", *places.unbind(1), names, strength),
            NodeTable.build("error", layers, everywhere, layers * 0, ("",) * len(layers)),
            NodeTable.build("token", bottom, positions, positions + 7, tuple(tokens)),
            NodeTable.build("position", bottom, positions, positions, ("",) * n),
            NodeTable.build("logit", top, last, ids, tuple(answers)),
        ]
    )


def _graph(nodes: NodeTable, adjacency: Tensor, weights: Tensor, metadata: GraphMetadata) -> Graph:
    targets = nodes.is_kind("feature", "logit")
    constant = torch.linspace(-1, 1, len(nodes)) * targets
    n_features = int(nodes.is_kind("feature").sum())
    return Graph(
        nodes=nodes.with_influence(influence(normalize(adjacency), weights)),
        adjacency=adjacency,
        constant=constant,
        preactivation=adjacency.sum(1) + constant,
        target_weights=weights,
        metadata=metadata,
        certificate=Certificate(n_features, n_features, 0.0, (0.5, 0.5), (0.5, 0.5)),
    )


def _metadata(
    n_layers: int, tokens: list[str], answers: list[str], probabilities: list[float]
) -> GraphMetadata:
    return GraphMetadata(
        prompt="".join(tokens),
        token_ids=tuple(range(7, 7 + len(tokens))),
        tokens=tuple(tokens),
        prefix=0,
        n_layers=n_layers,
        d_vocab=100,
        model="tiny",
        dictionary="tiny-clt",
        answers=tuple(
            Answer(answer, 5 + i, p)
            for i, (answer, p) in enumerate(zip(answers, probabilities, strict=True))
        ),
        settings={"max_logits": 10, "logit_mass": 0.95},
    )


def random_graph_of(
    seed: int,
    *,
    n_layers: int = 3,
    n_features: int = 12,
    tokens: tuple[str, ...] = ("The", " cat", " sat"),
    answers: tuple[str, ...] = (" down", " up"),
    density: float = 0.6,
) -> Graph:
    """A random acyclic graph; every edge goes up in layer and never back in position."""
    g = torch.Generator().manual_seed(seed)
    wide = len(tokens)
    cells = torch.randperm(n_layers * wide * n_features, generator=g)[:n_features].sort().values
    features = [
        (int(c) // (wide * n_features), int(c) // n_features % wide, int(c) % n_features)
        for c in cells
    ]
    nodes = _table(n_layers, list(tokens), features, list(answers))
    n = len(nodes)
    allowed = (nodes.layer[:, None] > nodes.layer) & (nodes.position[:, None] >= nodes.position)
    allowed &= nodes.is_kind("feature", "logit")[:, None] & ~nodes.is_kind("logit")
    present = torch.rand(n, n, generator=g) < density
    adjacency = torch.randn(n, n, generator=g) * (allowed & present)
    probabilities = torch.rand(len(answers), generator=g).sort(descending=True).values
    probabilities = 0.9 * probabilities / probabilities.sum()
    weights = torch.zeros(n)
    weights[-len(answers) :] = probabilities
    metadata = _metadata(n_layers, list(tokens), list(answers), probabilities.tolist())
    return _graph(nodes, adjacency, weights, metadata)


@pytest.fixture(scope="session")
def random_graph() -> Callable[..., Graph]:
    """The function :func:`random_graph_of`."""
    return random_graph_of


@pytest.fixture
def small_graph() -> Graph:
    """Two tokens, two layers, two features, one answer, and these edges:

    " b" → f0 +3, error (0, 1) → f1 −1, f0 → f1 +3, f1 → answer +4, "a" → answer −1. The answer's
    weight is 0.8, so "a" has influence 0.16 by its direct edge, f1 0.64, f0 0.48, the error 0.16,
    and " b" 0.48 through both features.
    """
    tokens, answers = ["a", " b"], [" c"]
    nodes = _table(2, tokens, [(0, 1, 2), (1, 1, 4)], answers)
    adjacency = torch.zeros(len(nodes), len(nodes))
    f0, f1 = nodes.find("feature", 0, 1, 2), nodes.find("feature", 1, 1, 4)
    answer = nodes.find("logit", 2, 1, 5)
    adjacency[f0, nodes.find("token", -1, 1, 8)] = 3.0
    adjacency[f1, nodes.find("error", 0, 1)] = -1.0
    adjacency[f1, f0] = 3.0
    adjacency[answer, f1] = 4.0
    adjacency[answer, nodes.find("token", -1, 0, 7)] = -1.0
    weights = torch.zeros(len(nodes))
    weights[answer] = 0.8
    return _graph(nodes, adjacency, weights, _metadata(2, tokens, answers, [0.8]))


@pytest.fixture(scope="session")
def reference_prune() -> ModuleType:
    """The script benchmarks/reference_prune.py, which knows the reference's random graphs."""
    path = Path(__file__).parents[2] / "benchmarks" / "reference_prune.py"
    spec = importlib.util.spec_from_file_location("reference_prune", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
