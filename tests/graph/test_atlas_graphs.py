"""Paths, upstream nodes and comparisons of traced graphs, whatever Atlas's features are."""

from __future__ import annotations

import pytest
import torch

import tl_attribution as tla
from tl_attribution.graph.graph import Graph

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def graphs() -> list[Graph]:
    model, dictionary = tla.load_model("atlas"), tla.load_dictionary("atlas")
    prompts = [f"Fact: the capital of the state containing {c} is" for c in ("Dallas", "Oakland")]
    return [tla.attribute(model, prompt, dictionary) for prompt in prompts]


def _only(graph: Graph, kind: str, label: str) -> tla.Node:
    (node,) = (n for n in graph.nodes if (n.kind, n.label) == (kind, label))
    return node


def test_what_an_answer_depends_on_adds_up_to_it(graphs: list[Graph]) -> None:
    graph = graphs[0]
    answer = _only(graph, "logit", " Austin")
    target = graph.nodes.find(*answer[:4])
    rows = {node.id: row for row, node in enumerate(graph.nodes)}
    total = float(graph.constant[target])
    for node, influence, effect in graph.upstream(answer):
        row = rows[node.id]
        inner = node.kind == "feature"
        total += effect * float(graph.constant[row] / graph.preactivation[row] if inner else 1.0)
        assert 0 < influence <= 1 + 1e-5
    assert total == pytest.approx(float(graph.preactivation[target]), rel=1e-3)


def test_upstream_is_the_inverse_on_a_traced_graph(graphs: list[Graph]) -> None:
    graph = graphs[0]
    adjacency, before = graph.adjacency.double(), graph.preactivation.double()
    signed = adjacency / torch.where(before == 0, 1.0, before)[:, None]
    eye = torch.eye(len(before), dtype=torch.float64)
    target = int(graph.target_weights.argmax())
    expected = before[target] * torch.linalg.inv(eye - signed)[target]
    rows = {node.id: row for row, node in enumerate(graph.nodes)}
    upstream = graph.upstream(target)
    effects = torch.tensor([u.effect for u in upstream], dtype=torch.float64)
    torch.testing.assert_close(
        effects, expected[[rows[u.node.id] for u in upstream]], rtol=1e-6, atol=1e-9
    )


def test_paths_groups_and_parts(graphs: list[Graph]) -> None:
    graph = graphs[0]
    answer, city = _only(graph, "logit", " Austin"), _only(graph, "token", " Dallas")
    paths = graph.paths(city, answer, n=50)
    assert len(paths) == 50
    (through,) = (u for u in graph.upstream(answer) if u.node == city)
    assert paths[0].strength < sum(p.strength for p in paths) <= through.influence * (1 + 1e-4)
    at_city = {"city": lambda n: n.kind == "feature" and n.position == city.position}
    grouped = graph.group(at_city)
    seen = grouped.supernodes()
    members = sum(graph.nodes[row].influence for row in grouped.groups["city"])
    assert 0 < float(seen.influence[seen.find("city")]) < min(1.0, members)
    assert grouped.scores() == graph.scores()
    assert grouped.subgraph(["city", city, answer]).residual() < 1e-5


def test_two_prompts_that_differ_in_one_word(graphs: list[Graph]) -> None:
    comparison = tla.compare(*graphs)
    place = _only(graphs[0], "token", " Dallas").position
    assert comparison.positions == {p: p for p in range(len(graphs[0].metadata.tokens))}
    assert [n.label for n in comparison.only_a() if n.kind == "token"] == [" Dallas"]
    assert [n.label for n in comparison.only_b() if n.kind == "token"] == [" Oakland"]
    # What comes before the word cannot know it, so the same features are active there.
    changed = [n for n in (*comparison.only_a(), *comparison.only_b()) if n.position < place]
    assert not changed
    assert comparison.count("feature").both > 0
