from __future__ import annotations

import json
from html import escape
from pathlib import Path

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tl_attribution.errors import FormatError, InputError
from tl_attribution.graph import export
from tl_attribution.graph.description import describe_node
from tl_attribution.graph.influence import influence, normalize
from tl_attribution.graph.loading import load_graph
from tl_attribution.graph.saving import KEY
from tl_attribution.text import printable
from tl_attribution.view import page
from tl_attribution.view.layout import clip

SCHEMA = json.loads((Path(__file__).parent / "neuronpedia_schema.json").read_text())
seeds = st.integers(0, 10_000)
few_examples = settings(max_examples=30)


marks = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def _grouped(random_graph, seed, marks):
    """A random graph, with some of its nodes in up to three groups."""
    graph = random_graph(seed, density=0.5)
    where = [marks[row % len(marks)] for row in range(len(graph.nodes))]
    groups = {f"group {g}": [r for r, m in enumerate(where) if m == g] for g in (1, 2, 3)}
    return graph.group({name: rows for name, rows in groups.items() if rows})


@few_examples
@given(seeds, marks)
def test_edges_between_groups_are_the_sums_of_their_members_edges(random_graph, seed, marks):
    graph = _grouped(random_graph, seed, marks)
    supernodes = graph.supernodes()
    shares = normalize(graph.adjacency)
    arriving = influence(shares, graph.target_weights) + graph.target_weights
    assert sorted(row for rows in supernodes.members for row in rows) == list(
        range(len(graph.nodes))
    )
    for t, targets in enumerate(supernodes.members):
        for s, sources in enumerate(supernodes.members):
            edges = [(x, y) for x in targets for y in sources]
            weight = sum(float(graph.adjacency[edge]) for edge in edges)
            flow = sum(float(shares[x, y] * arriving[x]) for x, y in edges)
            assert float(supernodes.weights[t, s]) == pytest.approx(weight, abs=1e-4)
            assert float(supernodes.flow[t, s]) == pytest.approx(flow, abs=1e-5)


@few_examples
@given(seeds, marks)
def test_influence_through_a_group_is_counted_once(random_graph, seed, marks):
    graph = _grouped(random_graph, seed, marks)
    supernodes = graph.supernodes()
    arriving = graph.nodes.influence + graph.target_weights
    leaves = (graph.adjacency == 0).all(1)
    for group, rows in enumerate(supernodes.members):
        members = list(rows)
        out = float(supernodes.influence[group])
        if len(rows) == 1:
            assert out == pytest.approx(float(graph.nodes.influence[rows[0]]), abs=1e-5)
        # What comes in, from targets above or as a target itself, goes out to sources or ends here.
        down = float(supernodes.flow[group].sum() - supernodes.flow[group, group])
        ends = float((arriving * leaves)[members].sum())
        assert out + float(graph.target_weights[members].sum()) == pytest.approx(
            down + ends, abs=1e-4
        )


@few_examples
@given(seeds, marks)
def test_grouping_changes_no_number(random_graph, seed, marks):
    graph = _grouped(random_graph, seed, marks)
    bare = graph.group({})
    assert bare.groups == {}
    assert graph.scores() == bare.scores()
    assert graph.residual() == bare.residual()
    assert torch.equal(graph.nodes.influence, bare.nodes.influence)
    assert graph.paths() == bare.paths()
    supernodes = graph.supernodes()
    inflow = supernodes.weights.sum(1)
    for group, rows in enumerate(supernodes.members):
        members = [row for row in rows if graph.is_target[row]]
        left = (graph.preactivation - graph.constant)[members].sum()
        assert float(inflow[group]) == pytest.approx(float(left), abs=1e-4)


@few_examples
@given(seeds, marks)
def test_groups_survive_saving_and_parts(random_graph, tmp_path_factory, seed, marks):
    graph = _grouped(random_graph, seed, marks)
    path = tmp_path_factory.mktemp("graph") / "graph"
    graph.save(path)
    assert load_graph(path) == graph
    assert (graph == graph.group({})) == (not graph.groups)
    names = {node.id: node.group for node in graph.nodes}
    for part in (graph.prune(0.6, 0.9), graph.subgraph(graph.target_weights > 0)):
        assert {node.id: names[node.id] for node in part.nodes} == {
            node.id: node.group for node in part.nodes
        }
        assert all(part.groups.values())


@few_examples
@given(seeds, marks)
def test_neuronpedia_gets_the_groups(random_graph, seed, marks):
    graph = _grouped(random_graph, seed, marks)
    exported = export.to_json_dict(graph)
    jsonschema.Draft7Validator(SCHEMA).validate(exported)
    supernodes = {name: ids for name, *ids in exported["qParams"]["supernodes"]}
    assert supernodes == {
        name: [graph.nodes[row].id for row in rows] for name, rows in graph.groups.items()
    }
    pinned = exported["qParams"]["pinnedIds"]
    assert len(pinned) == len(set(pinned))
    assert {i for ids in supernodes.values() for i in ids} <= set(pinned)
    assert bool(pinned) == bool(graph.groups)
    assert {node["node_id"] for node in exported["nodes"]} >= set(pinned)


def test_two_features_as_one(small_graph):
    graph = small_graph.group({"both": lambda node: node.kind == "feature"})
    assert graph.groups == {"both": (0, 1)}
    supernodes = graph.supernodes()
    both, token = supernodes.find("both"), supernodes.find("E_8_1")
    answer, error = supernodes.find("3_5_1"), supernodes.find("0_error_1")
    assert supernodes.names[both] == "both"
    assert float(supernodes.weights[both, token]) == 3.0
    assert float(supernodes.weights[both, both]) == 3.0
    assert float(supernodes.weights[both, error]) == -1.0
    assert float(supernodes.weights[answer, both]) == 4.0
    # f0's 0.48 flows through f1, so the two together carry f1's 0.64 and no more.
    assert float(supernodes.influence[both]) == pytest.approx(0.64)
    assert float(supernodes.influence[token]) == pytest.approx(0.48)
    drawn = supernodes.to_networkx()
    assert dict(drawn["both"]["3_5_1"]) == {"weight": 4.0, "flow": pytest.approx(0.64)}
    assert not drawn.has_edge("both", "both")
    assert drawn.nodes["both"]["members"] == (0, 1)
    assert describe_node(graph.nodes[0], graph) == 'layer 0 #2 at " b" (1) [both]'


def test_a_group_can_be_a_source_of_paths_and_change_its_name(small_graph):
    graph = small_graph.group({"both": [0, 1]})
    assert [p.nodes for p in graph.paths("both", "3_5_1")] == [(1, 10), (0, 1, 10)]
    renamed = graph.group({"new": graph.groups["both"]})
    assert renamed.groups == {"new": (0, 1)}
    more = graph.group({**graph.groups, "tokens": ["E_7_0", "E_8_1"]})
    assert set(more.groups) == {"both", "tokens"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 1], "b": [1]}, "node 1_4_1 is in two groups, 'a' and 'b'"),
        ({"a": []}, "supernode 'a': expected at least one node"),
        ({"a": lambda node: False}, "supernode 'a': expected at least one node"),
        ({"": [0]}, "cannot be named ''"),
        ({"0_2_1": [0]}, "cannot be named '0_2_1'"),
        ({"a": ["b"], "b": [0]}, "supernode 'a': 'b' is neither"),
        ({"a": [99]}, "supernode 'a': this graph has rows 0 to 10, got row 99"),
    ],
)
def test_groups_that_cannot_be_are_refused(small_graph, groups, message):
    with pytest.raises(InputError, match=message):
        small_graph.group(groups)


def test_an_unknown_supernode_is_refused(small_graph):
    with pytest.raises(InputError, match="no supernode is named 'x'"):
        small_graph.supernodes().find("x")


@pytest.mark.parametrize("groups", [["a"], [3] * 11, None, {"a": 1}])
def test_a_file_with_spoiled_groups_is_refused(small_graph, tmp_path, groups):
    path = tmp_path / "graph"
    small_graph.group({"a": [0]}).save(path)
    with safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()[KEY])
        stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(stored, path, metadata={KEY: json.dumps({**header, "groups": groups})})
    with pytest.raises(FormatError, match=r"a part of the graph in .* is missing or wrong"):
        load_graph(path)


def test_supernodes_are_drawn_with_their_edges(small_graph):
    drawn = page.render(small_graph.group({"both": [0, 1], "error": ["0_error_1"]}))
    section = drawn[drawn.index("<h2>Supernodes") : drawn.index("<h2>Map")]
    # The groups, two tokens, the answer; b → both → c, error ⊣ both, a ⊣ c.
    assert section.count("<rect") == 5
    assert section.count('class="e plus') == 2
    assert section.count('class="e minus') == 2
    assert "5 nodes that are in no group are not drawn" in section
    assert "both → &quot; c&quot; 80.0%\nweight +4, 64.00% of the influence" in section
    assert "Supernodes" not in page.render(small_graph)


@few_examples
@given(seeds, marks, st.text(min_size=1, max_size=30))
def test_any_name_is_only_text(random_graph, seed, marks, name):
    graph = _grouped(random_graph, seed, marks)
    hostile = f'"><script>{name}</style><b onclick="x">'
    graph = graph.group({hostile: graph.nodes.is_kind("feature")})
    drawn = page.render(graph)
    assert "<script" not in drawn
    assert "<b onclick" not in drawn
    if name.isprintable():
        assert escape(clip(printable(hostile), 40)) in drawn
