from __future__ import annotations

import heapq
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph import paths
from tl_attribution.graph.graph import Certificate
from tl_attribution.graph.influence import normalize
from tl_attribution.text import printable

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
    every = [
        path
        for row in graph.target_weights.nonzero().flatten().tolist()
        for path in _all_paths(graph, shares, row, float(graph.target_weights[row]), ())
    ]
    expected = heapq.nlargest(n, every)
    found = graph.paths(n=n)
    assert [path.strength for path in found] == pytest.approx([s for s, _ in expected], rel=1e-4)
    strengths = {nodes: strength for strength, nodes in every}
    for path in found:
        assert path.strength == pytest.approx(strengths[path.nodes], rel=1e-4)
    assert len({path.nodes for path in found}) == len(found)


@settings(max_examples=25)
@given(seeds)
def test_all_paths_together_are_the_influence_of_the_inputs(random_graph, seed):
    graph = random_graph(seed, n_features=6, density=0.4)
    inputs = graph.nodes.is_kind("token", "position")
    found = graph.paths(n=5_000)
    assert len(found) < 5_000
    total = sum(path.strength for path in found)
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
    for depth, rows in enumerate(paths.topological_levels(edges)):
        level[rows] = depth
    targets, sources = edges.nonzero().T
    assert (level[sources] < level[targets]).all()


@pytest.mark.slow
def test_a_dense_graph_of_six_thousand_nodes_takes_seconds(random_graph):
    graph = random_graph(0, n_layers=12, n_features=5_900, tokens=("a",) * 4, density=1.0)
    started = time.perf_counter()
    found = graph.paths(n=10)
    assert time.perf_counter() - started < 20
    assert [p.strength for p in found] == sorted((p.strength for p in found), reverse=True)
    assert len(found) == 10


def test_a_node_in_words(small_graph):
    nodes, find = small_graph.nodes, small_graph.nodes.find
    assert [paths.describe(node, small_graph) for node in nodes] == [
        'layer 0 #2 at " b" (1)',
        'layer 1 #4 at " b" (1): feature 1',
        'error layer 0 at "a" (0)',
        'error layer 0 at " b" (1)',
        'error layer 1 at "a" (0)',
        'error layer 1 at " b" (1)',
        '"a" (0)',
        '" b" (1)',
        "position 0",
        "position 1",
        '" c"',
    ]
    answer = nodes[find("logit", 2, 1, 5)]
    assert paths.describe(answer._replace(position=0), small_graph) == '" c" after (0)'
    difference = answer._replace(index=100, label='" c" − " d"')
    assert paths.describe(difference, small_graph) == '" c" − " d"'


def test_a_path_in_words_shows_signs(small_graph):
    first, second = small_graph.paths(n=2)
    assert paths.route(first, small_graph) == (
        '" b" (1) → layer 0 #2 at " b" (1) → layer 1 #4 at " b" (1): feature 1 → " c"'
    )
    assert paths.route(second, small_graph) == '"a" (0) ⊣ " c"'


@given(st.text())
def test_printed_text_cannot_steer_a_terminal(text):
    shown = printable(text)
    assert all(c.isprintable() or c in paths.JOINERS for c in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


def test_what_is_escaped_and_what_is_not():
    assert printable("\x1b[31m\n\u202e\ud800") == "\\x1b[31m\\n\\u202e\\ud800"
    for text in ("naïve café", "日本語", "👩\u200d💻", "क्\u200dष"):
        assert printable(text) == text


def test_the_summary_of_the_small_graph(small_graph):
    assert paths.summary(small_graph) == (
        "prompt       a b\n"
        'tokens       "a" " b"\n'
        'answers      " c" 80.0%\n'
        "model        tiny\n"
        "dictionary   tiny-clt\n"
        "graph        2 features, 4 errors, 2 tokens, 2 positions, 1 logit, 5 edges\n"
        "replacement  0.800\n"
        "completeness 0.941\n"
        "residual     0.0e+00\n"
        "strongest paths\n"
        '  48.00%  " b" (1) → layer 0 #2 at " b" (1) → layer 1 #4 at " b" (1): feature 1 → " c"\n'
        '  16.00%  "a" (0) ⊣ " c"'
    )


def test_the_summary_says_when_the_graph_is_pruned_or_partial(small_graph):
    pruned = dict(paths.facts(small_graph.prune(0.6, 0.9)))
    assert pruned["pruned to"] == "0.6 of influence, 0.9 of edges; the scores are of what is left"
    partial = replace(small_graph, certificate=Certificate(20, 2, 0.125, (0.7, 0.8), (0.9, 0.95)))
    assert "partial" not in dict(paths.facts(small_graph))
    assert dict(paths.facts(partial))["partial"] == (
        "2 of 20 active features expanded; 12.5% of the influence goes to the others; the whole "
        "graph has replacement 0.700 to 0.800, completeness 0.900 to 0.950"
    )


def test_the_summary_of_a_hostile_prompt_is_plain(random_graph):
    graph = random_graph(0, tokens=("\x1b[2J", "\r\n", " cat"), answers=("\x07",))
    assert "\x1b" not in paths.summary(graph)
    assert "\r" not in paths.summary(graph)
    assert "\x07" not in paths.summary(graph)


def test_a_graph_no_input_of_which_reaches_a_target_says_so(small_graph):
    alone = replace(small_graph, adjacency=torch.zeros_like(small_graph.adjacency))
    assert paths.summary(alone).endswith("  none: no input reaches a target")
