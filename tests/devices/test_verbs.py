"""Every verb besides ``attribute`` gives on a device what it gives on the processor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.devices.pairs import Pair
from tests.models import N_LAYERS, bridge, hooked
from tests.random_dictionaries import KINDS, transcoder
from tests.training import tiny_runs
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import InputError, UnsupportedModelError
from tl_attribution.replacement.active_features import ActiveFeatures
from tl_attribution.training.contexts import Contexts

PROMPT = [1, 9, 20, 33, 9, 41]
KIND = pytest.mark.parametrize("kind", ["clt-jumprelu", "per-layer-skip", "neurons"])
HELD = [tla.Intervention(0, slice(2, None), 3, 2.5), tla.Intervention.scale(0, 4, 1, -1.0)]
MODES: dict[str, dict[str, Any]] = {
    "iterative": {},
    "direct": {"propagation": "direct"},
    "constrained": {"propagation": "constrained", "layers": range(0, 2)},
    "attention free": {"freeze_attention": False},
    "replacement": {"mlps": "replacement"},
}
pytestmark = pytest.mark.hosts


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_processors(pair: Pair, kind: str) -> None:
    there = tla.features(pair.there, PROMPT, KINDS[kind](pair.there))
    here = tla.features(pair.here, PROMPT, KINDS[kind](pair.here))
    assert isinstance(there, ActiveFeatures)
    assert isinstance(here, ActiveFeatures)
    assert there.activation.device.type == pair.device
    for name in ("layer", "position", "index"):
        assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
    pair.assert_same(there.activation, here.activation)
    pair.assert_same(there.to("cpu").preactivation, here.preactivation)
    pair.assert_same(there.to_dense(N_LAYERS, 6, 40), here.to_dense(N_LAYERS, 6, 40))


@KIND
@pytest.mark.parametrize("mode", MODES)
def test_interventions_give_the_processors_run(pair: Pair, kind: str, mode: str) -> None:
    graph = tla.attribute(pair.here, PROMPT, KINDS[kind](pair.here))
    columns = [getattr(graph.nodes, c)[:5] for c in ("layer", "position", "index")]
    there, here = (
        tla.intervene(model, graph, KINDS[kind](model), HELD, **MODES[mode])
        for model in (pair.there, pair.here)
    )
    pair.assert_same(there.logits, here.logits)
    pair.assert_same(there.reads, here.reads)
    pair.assert_same(there.original_logits, here.original_logits)
    pair.assert_same(there.activations, here.activations)
    pair.assert_same(there.preactivations(*columns), here.preactivations(*columns))


def test_many_interventions_give_the_processors_runs(pair: Pair) -> None:
    groups = [HELD, [], tla.Intervention.add(1, -1, 2, 1.5)]
    runs = [
        list(tla.intervene_each(model, PROMPT, transcoder(), groups, rows=2))
        for model in (pair.there, pair.here)
    ]
    for there, here in zip(*runs, strict=True):
        pair.assert_same(there.logits, here.logits)
        assert there.tokens == here.tokens


@KIND
def test_generated_text_is_the_processors(pair: Pair, kind: str) -> None:
    for options in ({}, {"temperature": 1.0, "seed": 3}, {"freeze_attention": False}):
        there, here = (
            tla.generate(model, PROMPT, KINDS[kind](model), HELD, max_new_tokens=3, **options)
            for model in (pair.there, pair.here)
        )
        assert there.token_ids == here.token_ids
        pair.assert_same(there.logits, here.logits)


@KIND
@pytest.mark.parametrize("errors", [False, True])
def test_the_replacement_model_is_the_processors(pair: Pair, kind: str, errors: bool) -> None:
    there, here = (
        tla.replacement_logits(model, PROMPT, KINDS[kind](model), errors=errors)
        for model in (pair.there, pair.here)
    )
    pair.assert_same(there, here)


def numbers(value: Any) -> list[float]:
    """Every number in nested dictionaries and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [n for one in value for n in numbers(one)]
    return [float(value)] if isinstance(value, (int, float)) else []


@KIND
def test_an_evaluation_is_the_processors(pair: Pair, kind: str) -> None:
    rows = Contexts(torch.tensor([[1, 9, 20, 33, 9], [1, 30, 5, 0, 0]]), torch.tensor([5, 3]))
    there, here = (
        tla.evaluate(model, KINDS[kind](model), rows, prompts=[(" w1 w2", "w9")], graphs=1)
        for model in (pair.there, pair.here)
    )
    assert len(numbers(asdict(here))) > 50
    assert numbers(asdict(there)) == pytest.approx(numbers(asdict(here)), rel=1e-4, abs=1e-5)


@KIND
def test_a_validation_is_the_processors(pair: Pair, kind: str) -> None:
    graph = tla.attribute(pair.here, PROMPT, KINDS[kind](pair.here))
    node = next(n for n in graph.nodes if n.kind == "feature")
    there, here = (
        tla.validate(model, graph, KINDS[kind](model), supernodes=[[node]], max_features=3)
        for model in (pair.there, pair.here)
    )
    assert len(numbers(asdict(here))) > 20
    assert numbers(asdict(there)) == pytest.approx(numbers(asdict(here)), rel=1e-3, abs=1e-5)


def test_a_dictionary_on_another_device_is_moved(pair: Pair, tmp_path: Path) -> None:
    dictionary = transcoder(skip=True, offset=True)
    dictionary.save(tmp_path / "dictionary")
    stored = tla.load_dictionary(tmp_path / "dictionary")
    there = tla.load_dictionary(tmp_path / "dictionary", device=pair.device)
    assert isinstance(there, Transcoder)
    assert there.layers[0].W_enc.device.type == pair.device
    expected = tla.attribute(pair.here, PROMPT, dictionary)
    for model, one in ((pair.there, stored), (pair.here, there), (pair.there, there)):
        graph = tla.attribute(model, PROMPT, one)
        pair.assert_same(graph.adjacency, expected.adjacency)
        run = tla.intervene(model, graph, one, HELD)
        assert run.logits.device == next(model.parameters()).device
    neurons = tla.neurons(pair.there)
    pair.assert_same(
        tla.attribute(pair.here, PROMPT, neurons).adjacency,
        tla.attribute(pair.here, PROMPT, tla.neurons(pair.here)).adjacency,
    )


def test_dense_activations_are_decoded_where_they_are(pair: Pair) -> None:
    dictionary = transcoder(skip=True, offset=True)
    x = torch.randn(N_LAYERS, 4, dictionary.d_model, generator=torch.Generator().manual_seed(0))
    there = dictionary.decode(dictionary.encode(x.to(pair.device)), x.to(pair.device))
    pair.assert_same(there, dictionary.decode(dictionary.encode(x), x))


@pytest.mark.parametrize("options", [{}, {"activation": "jumprelu"}, {"kind": "transcoders"}])
def test_training_runs_on_the_models_device(
    pair: Pair, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = tiny_runs.config(tokens=256, **options)
    losses = []
    for where, model in (("there", pair.there), ("here", pair.here)):
        dictionary = tla.train(model, tiny_runs.texts(), config, out=tmp_path / where)
        assert dictionary.layers[0].W_enc.device == next(model.parameters()).device
        losses.append([*tiny_runs.losses(tmp_path / where).values()])
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_model_on_several_devices_is_refused_by_their_names(pair: Pair) -> None:
    model = hooked("gpt2") if "Hooked" in type(pair.here).__name__ else bridge("gpt2")
    model.blocks[1].to(pair.device)
    with pytest.raises(UnsupportedModelError, match=rf"on several devices.*cpu.*{pair.device}:0"):
        tla.attribute(model, PROMPT, transcoder())


def test_a_model_is_loaded_onto_a_device(device: str) -> None:
    model = tla.load_model("atlas", device=device)
    assert {p.device.type for p in model.parameters()} == {device}
    prompt = "Fact: the capital of the state containing Dallas is"
    there = tla.attribute(model, prompt, tla.load_dictionary("atlas", device=device))
    here = tla.attribute(tla.load_model("atlas"), prompt, tla.load_dictionary("atlas"))
    assert there.metadata.answers[0].token == here.metadata.answers[0].token == " Austin"
    assert torch.allclose(there.adjacency, here.adjacency, atol=1e-4)


@pytest.mark.parametrize("name", ["cuda:63", "xpu:7", "nowhere", "pretend:5"])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(name: str) -> None:
    said = rf"there is no device '{name}'; this machine has cpu"
    with pytest.raises(InputError, match=said):
        tla.load_model("atlas", device=name)
    with pytest.raises(InputError, match=said):
        tla.load_dictionary("atlas", device=name)
    with pytest.raises(InputError, match=said):
        tla.train(tiny_runs.model(), tiny_runs.texts(), tiny_runs.config(), device=name)
