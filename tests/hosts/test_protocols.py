"""What a host implements decides which verbs work on it, and a verb says what its host lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tl_attribution as tla
from tests.models import HOSTS, tiny
from tests.test_documents import BLOCK
from tl_attribution import extend
from tl_attribution.hosts.registry import host_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture
def model() -> Iterator[Any]:
    """The model of docs/extending.md, whose host only traces."""
    names: dict[str, Any] = {}
    exec(BLOCK.findall(DOCUMENT.read_text("utf-8"))[0], names)
    yield names["ToyModel"]()
    extend.HOSTS.unregister(names["ToyModel"])


def test_a_host_that_only_traces_is_traced(model: Any) -> None:
    host = host_for(model)
    assert isinstance(host, extend.Traceable)
    assert not isinstance(host, extend.Editable)
    assert not isinstance(host, extend.Trainable)
    neurons = tla.neurons(model)
    graph = tla.attribute(model, PROMPT, neurons)
    assert graph.residual() < 1e-3
    assert graph.is_target.sum() > 5
    active = tla.features(model, PROMPT, neurons)
    last = (active.layer == 0) & (active.position == len(PROMPT) - 1)
    ablation = tla.Intervention.ablate(0, len(PROMPT) - 1, int(active.index[last][0]))
    direct = tla.intervene(model, PROMPT, neurons, ablation, propagation="direct")
    changed = (direct.logits != direct.original_logits).any(-1)
    assert changed.tolist() == [False, False, False, False, True]


def generate(model: Any) -> object:
    return tla.generate(model, PROMPT, tla.neurons(model), max_new_tokens=1)


def intervene(model: Any) -> object:
    return tla.intervene(model, PROMPT, tla.neurons(model), tla.Intervention.ablate(0, 4, 0))


def replace(model: Any) -> object:
    return tla.replacement_logits(model, PROMPT, tla.neurons(model))


def evaluate(model: Any) -> object:
    return tla.evaluate(model, tla.neurons(model), ["some text"])


def train(model: Any) -> object:
    return tla.train(model, ["some text"], tla.TrainingConfig(feature_input_hook="resid_mid"))


@pytest.mark.parametrize(
    ("verb", "lacking", "protocol"),
    [
        (intervene, "run_replacing_mlps, new_cache, run_edited", "Editable"),
        (generate, "run_replacing_mlps, new_cache, run_edited", "Editable"),
        (replace, "run_replacing_mlps, new_cache, run_edited", "Editable"),
        (train, "tokenize_all, tokenizer_digest, read_mlps", "Trainable"),
        (evaluate, "tokenize_all, tokenizer_digest, read_mlps", "Trainable"),
    ],
)
def test_a_verb_names_what_the_host_lacks(
    model: Any, verb: Any, lacking: str, protocol: str
) -> None:
    with pytest.raises(tla.UnsupportedModelError) as raised:
        verb(model)
    assert f"toy can be traced, but its host ToyHost lacks {lacking}, which" in str(raised.value)
    assert f"extend.{protocol}" in str(raised.value)


def test_a_method_that_the_host_has_is_not_named_as_lacking(model: Any) -> None:
    adapter = extend.HOSTS[type(model)]
    extend.HOSTS.register(
        type(model), type("PartialHost", (adapter,), {"new_cache": lambda self, rows: None})
    )
    with pytest.raises(tla.UnsupportedModelError, match="lacks run_replacing_mlps, run_edited,"):
        generate(model)


def test_a_wrong_adapter_is_an_error_and_not_a_graph(model: Any) -> None:
    neurons = tla.neurons(model)
    block = model.blocks[0]
    forward = block.forward

    def wrong(x: Any) -> Any:
        pattern, middle, mlp_out = forward(x)
        return pattern.flip(0), middle, mlp_out

    block.forward = wrong
    with pytest.raises(tla.ProofError, match=r"before block 1|input of block 0"):
        tla.attribute(model, PROMPT, neurons)


@pytest.mark.hosts
@pytest.mark.parametrize("host_name", HOSTS)
def test_every_adapter_of_ours_is_a_host_for_all_verbs(host_name: str) -> None:
    assert isinstance(host_for(tiny("gpt2", host_name)), extend.Host)
