"""``tla.validate``: what it says of true graphs, of false ones, and how it says it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import HOSTS, tiny
from tests.random_dictionaries import KINDS, transcoder
from tl_attribution.errors import FormatError, InputError, MismatchError, NotFoundError
from tl_attribution.evaluation.metrics import ranks, spearman
from tl_attribution.graph.graph import Graph
from tl_attribution.validation.results import RankCorrelations, Validation, grade

PROMPT = [1, 9, 20, 33, 9, 41]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2", HOSTS[0])


@pytest.fixture(scope="module")
def graph(model: Any) -> Graph:
    return tla.attribute(model, PROMPT, transcoder())


@pytest.fixture(scope="module")
def found(model: Any, graph: Graph) -> Validation:
    features = [n for n in graph.nodes if n.kind == "feature"]
    return tla.validate(
        model, graph, transcoder(), supernodes=[features[:3], [features[5][1:4]]], max_features=12
    )


def test_ranks_and_their_correlation_by_hand() -> None:
    assert ranks(torch.tensor([10.0, -1.0, 10.0, 3.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, one.exp()) == pytest.approx(1.0)
    assert spearman(one, -one) == pytest.approx(-1.0)
    assert spearman(one, torch.tensor([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert spearman(one, torch.ones(4)) is None
    assert spearman(one[:2], one[:2]) is None


@pytest.mark.hosts
def test_direct_effects_agree_and_effects_are_what_intervene_gives(
    model: Any, graph: Graph, found: Validation
) -> None:
    assert found.direct.worst < 1e-4
    assert len(found.tested) == 12
    assert found.direct.effects == 14 * int(graph.is_target.sum())
    logits = [i for i, n in enumerate(graph.nodes) if n.kind == "logit"]
    tokens = graph.metadata.tokens
    features = {
        f'layer {n.layer} #{n.index} at "{tokens[n.position]}" ({n.position})': n
        for n in graph.nodes
        if n.kind == "feature"
    }
    for tested in found.tested[::5]:
        node = features[tested.name]
        assert (tested.influence, tested.activation) == (node.influence, node.activation)
        run = tla.intervene(model, graph, transcoder(), tla.Intervention.ablate(*node[1:4]))
        moved = run.logits[-1] - run.original_logits[-1]
        moved = (moved - moved.mean()).abs()
        effect = sum(
            float(graph.target_weights[i] * moved[graph.nodes[i].index])
            / float(graph.adjacency[i].abs().sum())
            for i in logits
        )
        assert tested.effect == pytest.approx(effect, rel=1e-3, abs=1e-7)
    by_hand = spearman(
        *(torch.tensor([getattr(t, c) for t in found.tested]) for c in ("influence", "effect"))
    )
    assert found.ranking.influence == pytest.approx(by_hand)


@pytest.mark.hosts
def test_supernodes_are_ablated_as_a_whole(model: Any, graph: Graph, found: Validation) -> None:
    several, alone = found.supernodes
    features = [n for n in graph.nodes if n.kind == "feature"]
    assert several.name.endswith("and 2 more")
    assert several.influence == pytest.approx(sum(n.influence for n in features[:3]))
    assert alone.activation == pytest.approx(features[5].activation)


@pytest.mark.hosts
def test_neurons_respond_exactly_as_the_model(model: Any) -> None:
    neurons = tla.neurons(model)
    graph = tla.attribute(model, PROMPT, neurons, max_features=40)
    exact = tla.validate(model, graph, neurons, max_features=8)
    assert exact.direct.worst < 1e-3
    assert [layer.layer for layer in exact.layers] == [1, 2]
    for layer in exact.layers:
        if layer.cosine is not None:
            assert layer.cosine == pytest.approx(1.0, abs=1e-4)
            assert layer.error == pytest.approx(0.0, abs=1e-4)
    curve = exact.curve
    whole = curve.counts.index(32)
    assert min(curve.influence[whole], curve.activation[whole], curve.random[whole]) > 0


@pytest.mark.hosts
def test_a_false_graph_is_called_false(model: Any, graph: Graph) -> None:
    wrong = replace(graph, adjacency=graph.adjacency * 1.5)
    found = tla.validate(model, wrong, transcoder(), max_features=4)
    assert found.direct.worst > 0.1
    assert found.verdict[0].startswith("Do not use this graph")
    assert "NOT the graph's edges" in found.verdict[1]


@pytest.mark.hosts
@pytest.mark.parametrize("kind", ["per-layer-skip", "clt-skip"])
def test_pruned_graphs_and_capped_logits(kind: str) -> None:
    model = tiny("gemma2", HOSTS[-1])
    dictionary = KINDS[kind](model)
    pruned = tla.attribute(model, PROMPT, dictionary).prune(0.95, 0.9)
    found = tla.validate(model, pruned, dictionary, max_features=4)
    assert found.direct.worst < 1e-3
    assert found.curve.counts


@pytest.mark.hosts
def test_what_cannot_be_validated(model: Any, graph: Graph) -> None:
    with pytest.raises(MismatchError, match="other weights"):
        tla.validate(model, graph, transcoder(seed=3))
    with pytest.raises(InputError, match="max_features must be at least 1"):
        tla.validate(model, graph, transcoder(), max_features=0)
    with pytest.raises(InputError, match="no feature node at layer 0"):
        tla.validate(model, graph, transcoder(), supernodes=[[(0, 0, 1)]])
    difference = tla.attribute(
        model, PROMPT, transcoder(), targets=[tla.DifferenceTarget(" w1", " w2")]
    )
    with pytest.raises(InputError, match="explains no token"):
        tla.validate(model, difference, transcoder())


@pytest.mark.hosts
def test_json_and_back(found: Validation, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    found.to_json(path)
    assert Validation.from_json(path) == found
    assert json.loads(path.read_text())["verdict"] == list(found.verdict)
    with pytest.raises(NotFoundError):
        Validation.from_json(tmp_path / "none.json")
    path.write_text("{}")
    with pytest.raises(FormatError, match="corrupt or no validation"):
        Validation.from_json(path)


class Tags(HTMLParser):
    """Counts elements and collects text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.hosts
def test_the_page_shows_everything_and_runs_nothing(found: Validation, tmp_path: Path) -> None:
    hostile = replace(found, prompt="<script>alert(1)</script>\x1b[31m")
    hostile.to_html(tmp_path / "v.html")
    page = (tmp_path / "v.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.seen.count("svg") == 3
    assert "script" not in tags.seen
    assert "http" not in page
    assert "\x1b" not in page
    assert all(sentence in tags.text for sentence in found.verdict)
    assert page.count('class="dot"') == len(found.tested)


@pytest.mark.parametrize(
    ("influence", "activation", "cosine", "said"),
    [
        (0.9, 0.2, 0.95, "predicts what the model does"),
        (0.6, 0.2, 0.95, "roughly"),
        (0.9, 0.95, 0.95, "hypotheses only"),
        (0.2, 0.1, 0.95, "hypotheses only"),
        (None, None, None, "hypotheses only"),
    ],
)
@pytest.mark.hosts
def test_the_verdict_follows_the_numbers(
    found: Validation,
    influence: float | None,
    activation: float | None,
    cosine: float | None,
    said: str,
) -> None:
    layers = tuple(replace(layer, cosine=cosine) for layer in found.layers)
    ranking = RankCorrelations(influence, activation, 0.1, 0.5)
    assert said in replace(found, ranking=ranking, layers=layers).verdict[0]


def test_grades() -> None:
    assert [grade(x) for x in (None, 0.1, 0.4, 0.7)] == ["unknown", "poor", "fair", "good"]
