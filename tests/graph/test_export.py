from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.graph import export

SCHEMA = json.loads((Path(__file__).parent / "neuronpedia_schema.json").read_text())
"""Neuronpedia's extra, as its upload page checks it."""

JS_SAFE = 2**53


def _written(graph, path):
    graph.to_json(path)
    return json.loads(path.read_text("ascii"))


@given(st.integers(0, 10_000), st.booleans())
def test_every_graph_fits_the_schema(random_graph, seed, pruned):
    graph = random_graph(seed)
    graph = graph.prune() if pruned else graph
    exported = export.to_json_dict(graph)
    jsonschema.Draft7Validator(SCHEMA).validate(exported)
    assert ("node_threshold" in exported["metadata"]) == pruned


@given(st.integers(0, 10_000))
def test_links_are_the_edges_and_point_at_nodes(random_graph, seed):
    graph = random_graph(seed)
    exported = export.to_json_dict(graph)
    rows = {node["node_id"]: row for row, node in enumerate(exported["nodes"])}
    assert len(rows) == len({node["jsNodeId"] for node in exported["nodes"]}) == len(graph.nodes)
    again = torch.zeros_like(graph.adjacency)
    for link in exported["links"]:
        again[rows[link["target"]], rows[link["source"]]] = link["weight"]
    assert torch.equal(again, graph.adjacency)


def test_nodes_are_what_circuit_tracer_writes(small_graph, tmp_path):
    nodes = {n["node_id"]: n for n in _written(small_graph, tmp_path / "g.json")["nodes"]}
    assert nodes["1_4_1"] == {
        "node_id": "1_4_1",
        "feature": 19,  # Cantor's number of layer 1, index 4
        "layer": "1",
        "ctx_idx": 1,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": "1_4_1",
        "clerp": "feature 1",
        "influence": pytest.approx(0.64 / 1.92),
        "activation": 0.5,
    }
    logit = nodes["3_5_1"]
    assert (logit["layer"], logit["feature"], logit["feature_type"]) == ("3", 5, "logit")
    assert (logit["clerp"], logit["is_target_logit"]) == ('Output " c" (p=0.800)', True)
    assert logit["token_prob"] == pytest.approx(0.8)
    token, position, error = nodes["E_7_0"], nodes["P_0_0"], nodes["0_error_1"]
    assert (token["layer"], token["feature"], token["feature_type"]) == ("E", 0, "embedding")
    assert (position["layer"], position["feature"], position["feature_type"]) == (
        "E",
        -1,
        "embedding",
    )
    assert error["feature_type"] == "mlp reconstruction error"
    assert error["activation"] is None


def test_only_the_likeliest_logit_is_the_target(random_graph):
    graph = random_graph(0, answers=(" a", " b", " c"))
    nodes = export.to_json_dict(graph)["nodes"]
    assert [n["is_target_logit"] for n in nodes[-3:]] == [True, False, False]
    assert sum(n["is_target_logit"] for n in nodes) == 1


def test_a_feature_that_is_explained_is_no_logit(small_graph):
    keep = ~small_graph.nodes.is_kind("logit")
    weights = torch.zeros(int(keep.sum()))
    weights[1] = 1.0
    graph = replace(
        small_graph,
        nodes=small_graph.nodes.select(keep),
        adjacency=small_graph.adjacency[keep][:, keep],
        constant=small_graph.constant[keep],
        preactivation=small_graph.preactivation[keep],
        target_weights=weights,
    )
    exported = export.to_json_dict(graph)
    assert not any(node["is_target_logit"] for node in exported["nodes"])
    assert exported["metadata"]["tl_attribution"]["target_weights"] == {"1_4_1": 1.0}


@given(st.integers(0, 200), st.integers(0, 10**6))
def test_pairs_come_apart_as_neuronpedia_takes_them_apart(layer, index):
    number = export.pair(layer, index)
    diagonal = int(((8 * number + 1) ** 0.5 - 1) // 2)
    assert number - diagonal * (diagonal + 1) // 2 == index
    assert diagonal - index == layer
    assert number < JS_SAFE


def test_in_edges_and_constants_in_the_file_give_the_preactivations(random_graph, tmp_path):
    exported = _written(random_graph(5), tmp_path / "g.json")
    extra = exported["metadata"]["tl_attribution"]
    sums = dict(extra["constants"])
    for link in exported["links"]:
        sums[link["target"]] += link["weight"]
    assert sums == pytest.approx(extra["preactivations"], abs=1e-5)
    assert extra["residual"] < 1e-6


def test_metadata_says_where_the_graph_is_from(small_graph, tmp_path):
    metadata = _written(small_graph.prune(), tmp_path / "g.json")["metadata"]
    assert metadata["prompt"] == "a b"
    assert metadata["prompt_tokens"] == ["a", " b"]
    assert (metadata["scan"], metadata["node_threshold"]) == ("tiny", 0.8)
    assert metadata["schema_version"] == 1
    assert metadata["info"]["generator"]["name"] == "tl-attribution"
    assert metadata["generation_settings"] == {"max_n_logits": 10, "desired_logit_prob": 0.95}
    assert metadata["tl_attribution"]["answers"] == [
        {"token": " c", "token_id": 5, "probability": 0.8}
    ]


def test_the_same_graph_gives_the_same_bytes(random_graph, tmp_path):
    for name in ("one", "two"):
        random_graph(2).to_json(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@given(st.text(min_size=1))
def test_slugs_are_safe_and_tell_prompts_apart(random_graph, prompt):
    graph = random_graph(0)
    metadata = replace(graph.metadata, prompt=prompt)
    slug = export.slug(replace(graph, metadata=metadata))
    assert re.fullmatch(r"[a-z0-9-]{1,60}", slug)
    other = replace(graph, metadata=replace(metadata, prompt=prompt + "!"))
    assert slug != export.slug(other)
    assert slug != export.slug(replace(graph, metadata=replace(metadata, model="another")))


def test_a_prompt_becomes_its_slug(random_graph):
    metadata = replace(random_graph(0).metadata, prompt="Fact: the Capital/../is", model="m")
    slug = export.slug(replace(random_graph(0), metadata=metadata))
    assert re.fullmatch(r"fact-the-capital-is-[0-9a-f]{8}", slug)


def test_numbers_json_cannot_hold_are_refused(small_graph, tmp_path):
    constant = small_graph.constant.clone()
    constant[0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        replace(small_graph, constant=constant).to_json(tmp_path / "g.json")
    assert not (tmp_path / "g.json").exists()


def test_two_nodes_in_one_place_are_refused(small_graph):
    index = small_graph.nodes.index.clone()
    index[0], layer = 4, small_graph.nodes.layer.clone()
    layer[0] = 1
    nodes = replace(small_graph.nodes, index=index, layer=layer)
    with pytest.raises(InputError, match=r"^two nodes"):
        export.to_json_dict(replace(small_graph, nodes=nodes))


def test_networkx_holds_the_same_graph(small_graph):
    exported = small_graph.to_networkx()
    assert set(exported.edges(data="weight")) == {
        ("E_8_1", "0_2_1", 3.0),
        ("0_error_1", "1_4_1", -1.0),
        ("0_2_1", "1_4_1", 3.0),
        ("1_4_1", "3_5_1", 4.0),
        ("E_7_0", "3_5_1", -1.0),
    }
    assert exported.nodes["0_2_1"]["activation"] == 0.25
    assert exported.nodes["3_5_1"]["label"] == " c"
    assert networkx.is_directed_acyclic_graph(exported)
    assert exported.graph["prompt"] == "a b"


@given(st.integers(0, 10_000))
def test_networkx_in_edges_and_constant_give_the_preactivation(random_graph, seed):
    graph = random_graph(seed).to_networkx()
    for name, node in graph.nodes(data=True):
        if node["kind"] in ("feature", "logit"):
            total = graph.in_degree(name, weight="weight") + node["constant"]
            assert total == pytest.approx(node["preactivation"], abs=1e-4)
