"""Node selectors, paths between selected nodes, upstream nodes and subgraphs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph.influence import influence, normalize
from tl_attribution.graph.loading import load_graph
from tl_attribution.graph.node_selectors import select_nodes
from tl_attribution.view import page

seeds = st.integers(0, 10_000)


def _paths_between(graph, source, target):
    """(rows, strength, effect) of all paths between two rows, by networkx's own search."""
    ids = [node.id for node in graph.nodes]
    into, before = graph.adjacency.double(), graph.preactivation.double()
    total = into.abs().sum(1)
    for names in networkx.all_simple_paths(graph.to_networkx(), ids[source], ids[target]):
        rows = [ids.index(name) for name in names]
        strength, effect = 1.0, float(before[target])
        for s, t in pairwise(rows):
            strength *= float(into[t, s].abs() / total[t])
            effect *= float(into[t, s] / before[t])
        yield tuple(rows), strength, effect


@settings(max_examples=40)
@given(seeds, st.integers(1, 12), st.data())
def test_paths_between_two_nodes_are_those_of_an_exhaustive_search(random_graph, seed, n, data):
    graph = random_graph(seed, density=0.4)
    reached = (graph.adjacency != 0).any(1).nonzero().flatten().tolist()
    assume(reached)
    source = data.draw(st.integers(0, len(graph.nodes) - 1))
    target = data.draw(st.sampled_from(reached))
    assume(source != target)
    all_paths = {rows: values for rows, *values in _paths_between(graph, source, target)}
    paths = graph.paths(source, target, n=n)
    expected = sorted((strength for strength, _ in all_paths.values()), reverse=True)[:n]
    assert [path.strength for path in paths] == pytest.approx(expected, rel=1e-4)
    assert len({path.nodes for path in paths}) == len(paths)
    for path in paths:
        strength, effect = all_paths[path.nodes]
        assert path.strength == pytest.approx(strength, rel=1e-4)
        assert path.effect == pytest.approx(effect, rel=1e-4)


@settings(max_examples=15)
@given(seeds, st.integers(1, 8))
def test_paths_between_sets_may_pass_through_both(random_graph, seed, n):
    graph = random_graph(seed, n_features=7, density=0.5)
    features = graph.nodes.is_kind("feature").nonzero().flatten().tolist()
    all_paths = [
        strength
        for source in features
        for target in features
        for _, strength, _ in (_paths_between(graph, source, target) if source != target else ())
    ]
    paths = graph.paths(features, features, n=n)
    expected = sorted(all_paths, reverse=True)[:n]
    assert [path.strength for path in paths] == pytest.approx(expected, rel=1e-4)
    assert all(len(path.nodes) > 1 for path in paths)


@settings(max_examples=30)
@given(seeds)
def test_upstream_is_the_inverse(random_graph, seed):
    graph = random_graph(seed)
    adjacency, before = graph.adjacency.double(), graph.preactivation.double()
    eye = torch.eye(len(before), dtype=torch.float64)
    target = int((adjacency != 0).any(1).nonzero().max())
    shares = normalize(adjacency)
    influence = torch.linalg.inv(eye - shares)[target] - eye[target]
    signed = adjacency / torch.where(before == 0, 1.0, before)[:, None]
    effect = before[target] * (torch.linalg.inv(eye - signed)[target] - eye[target])
    upstream = graph.upstream(target)
    rows = [graph.nodes.find(*u.node[:4]) for u in upstream]
    assert set(rows) == set((influence > 1e-12).nonzero().flatten().tolist())
    assert [u.influence for u in upstream] == pytest.approx(influence[rows].tolist(), rel=1e-4)
    scale = float(effect.abs().max())
    assert [u.effect for u in upstream] == pytest.approx(effect[rows].tolist(), abs=1e-6 * scale)
    assert [u.influence for u in upstream] == sorted((u.influence for u in upstream), reverse=True)


@settings(max_examples=10)
@given(seeds)
def test_upstream_is_the_sum_of_all_paths(random_graph, seed):
    graph = random_graph(seed, n_features=5, density=0.4)
    target = len(graph.nodes) - 1
    for upstream in graph.upstream(target):
        paths = graph.paths(upstream.node, target, n=500)
        assert len(paths) < 500
        assert sum(p.strength for p in paths) == pytest.approx(upstream.influence, rel=1e-4)
        size = sum(abs(p.effect) for p in paths)
        assert sum(p.effect for p in paths) == pytest.approx(upstream.effect, abs=1e-6 * size)


def _from_leaves_and_constants(graph, target):
    """What tokens, positions, errors and constants add to a pre-activation, summed."""
    total, size = float(graph.constant[target]), 0.0
    for node, _, effect in graph.upstream(target):
        row = graph.nodes.find(*node[:4])
        passed = 1.0
        if node.kind == "feature":
            passed = float(graph.constant[row]) / float(graph.preactivation[row])
        total, size = total + effect * passed, size + abs(effect * passed)
    return total, size


@settings(max_examples=30)
@given(seeds)
def test_effects_of_leaves_and_constants_are_the_preactivation(random_graph, seed):
    graph = random_graph(seed)
    for target in graph.target_weights.nonzero().flatten().tolist():
        total, size = _from_leaves_and_constants(graph, target)
        assert total == pytest.approx(float(graph.preactivation[target]), abs=1e-5 * (1 + size))


def test_hand_computed_effects(small_graph):
    # f0 reads 3 and its pre-activation is 3 + its constant, −1; f1's is 3 − 1 − 0.8.
    nodes = {u.node.id: u for u in small_graph.upstream("3_5_1")}
    assert nodes["1_4_1"].effect == 4.0
    assert nodes["0_2_1"].effect == pytest.approx(3 * 4 / 1.2)
    assert nodes["E_8_1"].effect == pytest.approx(3 * 3 * 4 / (2.0 * 1.2))
    assert nodes["E_8_1"].influence == pytest.approx(0.8 * 0.75)
    (path,) = small_graph.paths("E_8_1", lambda node: node.label == "feature 1")
    assert path.weights == (3.0, 3.0)
    assert path.strength == pytest.approx(0.75)
    assert path.effect == pytest.approx(3 * 3 / 2.0)
    assert small_graph.paths("0_error_0", "1_4_1") == []
    assert small_graph.paths("3_5_1", "3_5_1") == []
    assert small_graph.upstream("E_8_1") == []


@settings(max_examples=30)
@given(seeds, st.data())
def test_a_subgraph_keeps_edges_and_adds_up(random_graph, seed, data):
    graph = random_graph(seed)
    rows = data.draw(st.sets(st.integers(0, len(graph.nodes) - 1)))
    rows = sorted(rows | {len(graph.nodes) - 1})
    part = graph.subgraph(rows)
    assert [node.id for node in part.nodes] == [graph.nodes[row].id for row in rows]
    assert torch.equal(part.adjacency, graph.adjacency[rows][:, rows])
    assert torch.equal(part.nodes.influence, graph.nodes.influence[rows])
    # Relative to what was added: where it all cancels, the rounding remains.
    added = part.adjacency.abs().sum(1) + part.constant.abs()
    missed = part.adjacency.sum(1) + part.constant - part.preactivation
    assert bool((missed.abs() <= 1e-5 * added)[part.is_target].all())
    assert all(0 <= score <= 1 + 1e-6 for score in part.scores())


def test_a_subgraph_of_everything_is_the_graph(random_graph):
    graph = random_graph(3)
    part = graph.subgraph(torch.ones(len(graph.nodes), dtype=torch.bool))
    assert part.scores() == graph.scores()
    assert torch.equal(part.constant, graph.constant)


def test_a_subgraph_is_saved_exported_and_drawn_as_what_it_is(random_graph, tmp_path):
    graph = random_graph(1)
    part = graph.subgraph(lambda node: node.kind != "error")
    part.save(tmp_path / "part")
    assert load_graph(tmp_path / "part") == part
    part.to_json(tmp_path / "part.json")
    shown = page.render(part)
    assert f"A part, chosen by hand, of a graph of {len(graph.nodes)} nodes" in shown
    assert "nothing is left out" not in shown
    again = part.subgraph(lambda node: node.kind in ("feature", "logit"))
    assert again.metadata.settings["subgraph_of"] == len(graph.nodes)


def test_a_subgraph_without_anything_explained_is_refused(small_graph):
    with pytest.raises(InputError, match="add at least one of the targets: 3_5_1"):
        small_graph.subgraph(lambda node: node.kind == "token")


def test_nodes_are_selected_by_any_selector(small_graph):
    nodes = small_graph.nodes
    grouped = small_graph.group({"pair": [0, 1]})
    for selector in (
        [nodes[0], nodes[1]],
        (1, 0, 0),
        "pair",
        ["0_2_1", 1],
        nodes.is_kind("feature"),
        torch.tensor([1, 0]),
        iter([0, torch.tensor(1)]),
        lambda node: node.kind == "feature",
        {"pair", "0_2_1"},
    ):
        assert select_nodes(grouped.nodes, selector) == (0, 1)
    assert select_nodes(nodes, grouped.nodes[0]) == (0,)


def test_a_node_of_another_graph_is_refused(small_graph, random_graph):
    other = random_graph(0)
    with pytest.raises(InputError, match="it may be inactive on this prompt"):
        small_graph.upstream(other.nodes[0]._replace(index=99))
    elsewhere = small_graph.nodes[0]._replace(activation=9.0)
    with pytest.raises(InputError, match="activation 9, but in this graph 0"):
        small_graph.paths(elsewhere)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("1_4_2", "neither the name of a supernode nor the id .* '1_4_1'"),
        ("no such name", "neither the name of a supernode nor the id"),
        (11, "this graph has rows 0 to 10, got row 11"),
        (-1, "got row -1"),
        (True, "expected a Node, a row, .*, got True"),
        ([1.5], "expected a Node, .*, got 1.5"),
        ([None], "expected a Node, .*, got None"),
        ([], "expected at least one node, got none"),
        (lambda node: node.layer == 9, "no node meets the predicate"),
        (torch.ones(3, dtype=torch.bool), r"one entry per node, of shape \(11,\), got \(3,\)"),
        ([0, 1], "expected one node, got 2"),
    ],
)
def test_what_selects_no_node_is_refused(small_graph, selector, message):
    with pytest.raises(InputError, match=message):
        small_graph.upstream(selector)


def test_a_cycle_is_refused(small_graph):
    adjacency = small_graph.adjacency.clone()
    adjacency[0, 1] = 0.5
    graph = replace(small_graph, adjacency=adjacency)
    for ask in (lambda: graph.upstream(1), lambda: graph.paths(0, 1)):
        with pytest.raises(InputError, match="cycle"):
            ask()


def test_influence_is_the_targets_upstream(random_graph):
    graph = random_graph(2)
    weighted = sum(
        float(graph.target_weights[t])
        * influence(normalize(graph.adjacency), torch.eye(len(graph.nodes))[t])
        for t in graph.target_weights.nonzero().flatten().tolist()
    )
    torch.testing.assert_close(weighted, graph.nodes.influence)
