from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph.nodes import KINDS, NodeTable, node_id


def test_a_row_reads_back_what_was_built(small_graph):
    nodes = small_graph.nodes
    assert nodes[0][:4] == ("feature", 0, 1, 2)
    assert nodes[1].activation == 0.5
    assert nodes[1].label == "feature 1"
    assert [node.kind for node in nodes] == (
        ["feature"] * 2 + ["error"] * 4 + ["token"] * 2 + ["position"] * 2 + ["logit"]
    )


def test_find_is_the_inverse_of_reading_a_row(random_graph):
    nodes = random_graph(1).nodes
    for row, node in enumerate(nodes):
        assert nodes.find(node.kind, node.layer, node.position, node.index) == row


def test_find_says_which_node_is_missing(small_graph):
    with pytest.raises(InputError, match="no feature node at layer 0, position 1, index 99"):
        small_graph.nodes.find("feature", 0, 1, 99)


def test_ids_the_field_confuses_are_told_apart():
    # circuit-tracer calls both "0_3_5".
    assert node_id("error", 3, 5, 0) != node_id("feature", 0, 5, 3)


places = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 4), st.integers(0, 12), st.integers(0, 120)
)


@given(st.sets(places))
def test_ids_are_unique(places_of_nodes):
    # Leaves and logits have the one layer that their kind has; errors have no index.
    layer = {"token": -1, "position": -1, "logit": 5}
    nodes = {(k, layer.get(k, at), p, 0 if k == "error" else i) for k, at, p, i in places_of_nodes}
    assert len({node_id(*node) for node in nodes}) == len(nodes)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_cumulative_is_the_share_of_all_that_is_at_least_as_large(values):
    n = len(values)
    zeros = torch.zeros(n, dtype=torch.long)
    nodes = NodeTable.build("error", zeros, zeros, zeros, ("",) * n)
    influence = torch.tensor(values)
    cumulative = nodes.with_influence(influence).cumulative
    total = sum(values)
    for i, value in enumerate(values):
        larger = sum(v for v in values if v > value)
        as_large = sum(v for v in values if v >= value)
        if total > 0:
            assert larger / total - 1e-4 <= float(cumulative[i]) <= as_large / total + 1e-4
        else:
            assert float(cumulative[i]) == 0


def test_select_keeps_order_and_labels(small_graph):
    keep = small_graph.nodes.is_kind("token", "feature")
    assert [node.label for node in small_graph.nodes.select(keep)] == ["", "feature 1", "a", " b"]


def test_columns_of_different_length_are_refused(small_graph):
    with pytest.raises(InputError, match="differ in length"):
        replace(small_graph.nodes, labels=("one",))


def test_an_unknown_kind_is_refused(small_graph):
    with pytest.raises(InputError, match="node kinds must be 0 to 4"):
        replace(small_graph.nodes, kind=small_graph.nodes.kind + 1)
