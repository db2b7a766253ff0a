from __future__ import annotations

import heapq
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph.influence import normalize
from tl_attribution.graph.paths import topological_levels

seeds = st.integers(0, 10_000)


def _all_paths(graph, shares, row, strength, tail):
    """Every path from an input to ``row``, by walking back along every edge."""
    if graph.nodes[row].kind in ("token", "position"):
        yield strength, (row, *tail)
    for source in shares[row].nonzero().flatten().tolist():
        share = float(shares[row, source])
        yield from _all_paths(graph, shares, source, strength * share, (row, *tail))


@given(seeds, st.integers(1, 12))
def test_the_strongest_paths_are_those_of_an_exhaustive_search(random_graph, seed, n):
    graph = random_graph(seed, density=0.4)
    shares = normalize(graph.adjacency)
    all_paths = [
        path
        for row in graph.target_weights.nonzero().flatten().tolist()
        for path in _all_paths(graph, shares, row, float(graph.target_weights[row]), ())
    ]
    expected = heapq.nlargest(n, all_paths)
    paths = graph.paths(n=n)
    assert [path.strength for path in paths] == pytest.approx([s for s, _ in expected], rel=1e-4)
    strengths = {nodes: strength for strength, nodes in all_paths}
    for path in paths:
        assert path.strength == pytest.approx(strengths[path.nodes], rel=1e-4)
    assert len({path.nodes for path in paths}) == len(paths)


@settings(max_examples=25)
@given(seeds)
def test_all_paths_together_are_the_influence_of_the_inputs(random_graph, seed):
    graph = random_graph(seed, n_features=6, density=0.4)
    inputs = graph.nodes.is_kind("token", "position")
    paths = graph.paths(n=5_000)
    assert len(paths) < 5_000
    total = sum(path.strength for path in paths)
    assert total == pytest.approx(float(graph.nodes.influence[inputs].sum()), abs=1e-5)


def test_hand_computed_paths(small_graph):
    first, second = small_graph.paths(n=9)
    find = small_graph.nodes.find
    assert first.nodes == (
        find("token", -1, 1, 8),
        find("feature", 0, 1, 2),
        find("feature", 1, 1, 4),
        find("logit", 2, 1, 5),
    )
    assert first.weights == (3.0, 3.0, 4.0)
    assert first.strength == pytest.approx(0.8 * 0.8 * 0.75)
    assert second.nodes == (find("token", -1, 0, 7), find("logit", 2, 1, 5))
    assert second.weights == (-1.0,)
    assert second.strength == pytest.approx(0.8 * 0.2)


def test_a_feature_can_be_what_is_explained(small_graph):
    weights = torch.zeros(len(small_graph.nodes))
    weights[small_graph.nodes.find("feature", 1, 1, 4)] = 1.0
    (only,) = replace(small_graph, target_weights=weights).paths()
    assert only.weights == (3.0, 3.0)
    assert only.strength == pytest.approx(0.75)


def test_a_long_chain_is_followed_to_its_end(random_graph):
    tokens = ("a",)
    graph = random_graph(0, n_layers=200, n_features=0, tokens=tokens, answers=(" b",), density=0)
    # One feature a layer, each reading from the one below with a twentieth of its input; the rest
    # is error. The strength, 20 ** -199, is far below what float32 can hold.
    parts = {kind: graph.nodes.select(graph.nodes.is_kind(kind)) for kind in ("token", "error")}
    layers = torch.arange(200)
    features = type(graph.nodes).build("feature", layers, layers * 0, layers * 0, ("",) * 200)
    logit = graph.nodes.select(graph.nodes.is_kind("logit"))
    nodes = graph.nodes.concatenate([features, parts["error"], parts["token"], logit])
    n = len(nodes)
    adjacency = torch.zeros(n, n)
    adjacency[0, nodes.find("token", -1, 0, 7)] = 1.0
    adjacency[layers[1:], layers[:-1]] = 1.0
    adjacency[layers[1:], layers[:-1] + 200] = 19.0
    adjacency[n - 1, 199] = 1.0
    zeros, weights = torch.zeros(n), torch.zeros(n)
    weights[-1] = 1.0
    values = {"constant": zeros, "preactivation": zeros, "target_weights": weights}
    (path,) = replace(graph, nodes=nodes, adjacency=adjacency, **values).paths()
    assert len(path.nodes) == 202
    assert path.strength == pytest.approx(20.0**-199, rel=1e-3)


@pytest.mark.parametrize("n", [0, 1])
def test_a_graph_without_paths_has_none(small_graph, n):
    alone = replace(small_graph, adjacency=torch.zeros_like(small_graph.adjacency))
    assert alone.paths(n=n) == []
    assert small_graph.paths(n=0) == []


def test_a_negative_number_of_paths_is_refused(small_graph):
    with pytest.raises(InputError, match="n must be 0 or more, got -1"):
        small_graph.paths(n=-1)


@pytest.mark.parametrize(("target", "source"), [(0, 1), (1, 1)])
def test_a_cycle_is_refused(small_graph, target, source):
    adjacency = small_graph.adjacency.clone()
    adjacency[target, source] = 0.5
    with pytest.raises(InputError, match="cycle"):
        replace(small_graph, adjacency=adjacency).paths()


@given(seeds)
def test_levels_put_every_source_before_its_targets(random_graph, seed):
    edges = random_graph(seed).adjacency != 0
    level = torch.empty(len(edges))
    for depth, rows in enumerate(topological_levels(edges)):
        level[rows] = depth
    targets, sources = edges.nonzero().T
    assert (level[sources] < level[targets]).all()


@pytest.mark.slow
def test_a_dense_graph_of_six_thousand_nodes_has_its_paths_in_order(random_graph):
    graph = random_graph(0, n_layers=12, n_features=5_900, tokens=("a",) * 4, density=1.0)
    strengths = [path.strength for path in graph.paths(n=10)]
    assert strengths == sorted(strengths, reverse=True)
    assert len(strengths) == 10
