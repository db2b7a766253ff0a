from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph.influence import influence, normalize, prune_matrix, score_matrix

REFERENCE = json.loads((Path(__file__).parent / "circuit_tracer_prune.json").read_text())
seeds = st.integers(0, 10_000)


def test_hand_computed_influence(small_graph):
    shares = {node.id: round(node.influence, 6) for node in small_graph.nodes if node.influence}
    assert shares == {"0_2_1": 0.48, "1_4_1": 0.64, "0_error_1": 0.16, "E_7_0": 0.16, "E_8_1": 0.48}


def test_hand_computed_scores(small_graph):
    scores = small_graph.scores()
    assert scores.replacement == pytest.approx(0.64 / 0.8)
    # Only f1 has an error among its inputs, a quarter of them. What arrives at all nodes: the
    # influences 0.48 + 0.64 + 0.16 + 0.16 + 0.48 and the answer's 0.8.
    assert scores.completeness == pytest.approx(1 - 0.25 * 0.64 / 2.72)


@given(seeds)
def test_influence_is_the_sum_of_the_inverse(random_graph, seed):
    graph = random_graph(seed)
    shares = normalize(graph.adjacency).double()
    weights = graph.target_weights.double()
    all_walks = torch.linalg.inv(torch.eye(len(weights), dtype=torch.float64) - shares)
    expected = weights @ all_walks - weights
    torch.testing.assert_close(influence(shares, weights), expected)


@given(seeds)
def test_what_reaches_nodes_without_inputs_is_all_there_was(random_graph, seed):
    graph = random_graph(seed)
    leaves = (graph.adjacency == 0).all(1)
    arriving = graph.nodes.influence + graph.target_weights
    assert float(arriving[leaves].sum()) == pytest.approx(0.9, abs=1e-5)


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_pruned_graphs_keep_their_promises(random_graph, seed, node_threshold, edge_threshold):
    graph = random_graph(seed)
    always = graph.nodes.is_kind("token", "logit")
    features = graph.nodes.is_kind("feature")
    kept = prune_matrix(
        graph.adjacency, graph.target_weights, features, always, node_threshold, edge_threshold
    )
    assert kept.nodes[always].all()
    assert (kept.edges.nonzero().flatten().unique()[:, None] == kept.nodes.nonzero().T).any(1).all()
    assert not (kept.edges & (graph.adjacency == 0)).any()
    inner = kept.nodes & ~always
    assert kept.edges.any(0)[inner].all()
    assert kept.edges.any(1)[inner & features].all()


@given(seeds)
def test_pruning_moves_edges_into_the_constant(random_graph, seed):
    graph = random_graph(seed)
    assert graph.residual() < 1e-6
    assert graph.prune(0.5, 0.8).residual() < 1e-5
    assert graph.prune(0.5, 0.8).metadata.settings["node_threshold"] == 0.5


@given(seeds)
def test_thresholds_of_one_keep_all_that_has_influence(random_graph, seed):
    graph = random_graph(seed, density=1.0)  # else a feature can lack inputs, and goes
    pruned = graph.prune(1.0, 1.0)
    kept = {node.id for node in pruned.nodes}
    assert {node.id for node in graph.nodes if node.influence > 1e-6} <= kept


@settings(max_examples=20)
@given(seeds, st.floats(0.1, 0.9))
def test_higher_thresholds_keep_more(random_graph, seed, threshold):
    graph = random_graph(seed)
    fewer, more = graph.prune(threshold, 1.0), graph.prune(min(1.0, threshold + 0.1), 1.0)
    assert {node.id for node in fewer.nodes} <= {node.id for node in more.nodes}


@pytest.mark.parametrize("name", ["node_threshold", "edge_threshold"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_thresholds_outside_0_to_1_are_refused(small_graph, name, value):
    with pytest.raises(InputError, match=f"{name} must be between 0 and 1, got {value}"):
        small_graph.prune(**{name: value})


def test_a_cycle_is_refused(small_graph):
    adjacency = small_graph.adjacency.clone()
    adjacency[0, 1] = 1.0
    with pytest.raises(InputError, match="cycle"):
        replace(small_graph, adjacency=adjacency).prune()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_edge_that_is_no_number_is_refused(small_graph, value):
    adjacency = small_graph.adjacency.clone()
    adjacency[0, 6] = value
    with pytest.raises(InputError, match="NaN or infinite edge"):
        replace(small_graph, adjacency=adjacency).scores()


def test_a_graph_whose_answer_nothing_reaches_prunes_to_tokens_and_answers(small_graph):
    alone = replace(small_graph, adjacency=torch.zeros_like(small_graph.adjacency))
    assert {node.kind for node in alone.prune().nodes} == {"token", "logit"}
    assert alone.scores().replacement == 0


@pytest.mark.parametrize("result", REFERENCE["results"], ids=lambda r: f"seed {r['case'][0]}")
def test_masks_and_scores_are_circuit_tracers(reference_prune, result):
    case = reference_prune.build(*result["case"])
    adjacency = torch.tensor(case.rows)
    n_features, n_logits, n = len(case.places), len(case.probabilities), len(case.rows)
    weights = torch.zeros(n)
    weights[-n_logits:] = torch.tensor(case.probabilities)
    rows = torch.arange(n)
    features, always = rows < n_features, rows >= n - n_logits - case.n_positions
    for thresholds, expected in result["pruned"].items():
        pair = [float(threshold) for threshold in thresholds.split()]
        kept = prune_matrix(adjacency, weights, features, always, *pair)
        assert reference_prune.bits(kept.nodes) == expected["nodes"]
        assert reference_prune.bits(kept.edges) == expected["edges"]
    inputs, errors = always & (rows < n - n_logits), ~features & ~always
    scores = score_matrix(adjacency, weights, inputs, errors)
    assert list(scores) == pytest.approx(result["scores"], abs=1e-6)
    ordered, order = influence(normalize(adjacency), weights).sort(descending=True)
    cumulative = torch.empty(n)
    cumulative[order] = ordered.cumsum(0) / ordered.sum()
    some = ordered[order.argsort()] > 0  # ties at zero have no order
    reference = torch.tensor(result["cumulative"])
    torch.testing.assert_close(cumulative[some], reference[some], atol=1e-6, rtol=0)
