"""Text under intervention: with keys and values kept it is what running everything again gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import FAMILIES, HOSTS, tiny
from tests.random_dictionaries import KINDS
from tl_attribution.errors import InputError

PROMPT = [1, 9, 20, 33, 9, 41]
HELD = [tla.Intervention(0, slice(2, None), 3, 2.5), tla.Intervention(1, slice(3, 8), 1, -1.0)]

pytestmark = pytest.mark.hosts


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_keys_and_values_are_those_of_a_whole_run(family: str, host: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS["clt-skip"](model)
    made = tla.generate(model, PROMPT, dictionary, HELD, max_new_tokens=5, freeze_attention=False)
    whole = [*PROMPT, *made.token_ids]
    again = tla.intervene(model, whole, dictionary, HELD, freeze_attention=False).logits[5:-1]
    assert torch.allclose(made.logits, again, atol=1e-4 * float(again.abs().max()))
    assert made.token_ids == tuple(again.argmax(-1).tolist())
    assert len(made.tokens) == 5
    assert made.text == "".join(made.tokens)


@pytest.mark.parametrize("host", HOSTS)
def test_the_prompt_is_run_as_intervene_runs_it(host: str) -> None:
    model = tiny("llama", host)
    dictionary = KINDS["clt-relu"](model)
    for mode in ({}, {"propagation": "constrained", "layers": range(0, 2)}):
        mode: dict[str, Any]
        first = tla.intervene(model, PROMPT, dictionary, HELD, **mode).logits[-1]
        made = tla.generate(model, PROMPT, dictionary, HELD, max_new_tokens=3, **mode)
        assert torch.allclose(made.logits[0], first, atol=1e-4)
        assert len(made.token_ids) == 3
    plain = tla.generate(model, PROMPT, dictionary, max_new_tokens=3)
    assert torch.allclose(plain.logits[0], model(torch.tensor([PROMPT]))[0, -1], atol=1e-4)
    assert not torch.allclose(plain.logits[0], first, atol=1e-1)


def test_a_new_tokens_own_activation_is_what_is_scaled() -> None:
    model = tiny("gpt2", HOSTS[0])
    dictionary = KINDS["neurons"](model)
    later = slice(len(PROMPT), None)
    twice = tla.Intervention.scale(0, later, 4, 2.0)
    made = tla.generate(model, PROMPT, dictionary, twice, max_new_tokens=2)
    whole = [*PROMPT, made.token_ids[0]]
    expected = tla.intervene(model, whole, dictionary, twice, freeze_attention=False)
    assert torch.allclose(made.logits[1], expected.logits[-1], atol=1e-4)
    assert not torch.allclose(made.logits[1], expected.original_logits[-1], atol=1e-4)


def test_drawing_follows_the_seed_and_the_temperature() -> None:
    model = tiny("gpt2", HOSTS[0])
    dictionary = KINDS["clt-relu"](model)

    def made(**options: Any) -> tuple[int, ...]:
        return tla.generate(model, PROMPT, dictionary, max_new_tokens=6, **options).token_ids

    greedy = made()
    assert made(temperature=1e-4, seed=5) == greedy
    assert made(temperature=2.0, seed=1) == made(temperature=2.0, seed=1)
    assert len({made(temperature=3.0, seed=s) for s in range(4)}) > 1
    assert made(stop=[greedy[1]]) == greedy[: greedy.index(greedy[1]) + 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 27}, "more than the 32 that tiny-gpt2 takes; ask for at most 26"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"propagation": "direct"}, "no text follows"),
        ({"layers": range(2)}, "go together"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    model = tiny("gpt2", HOSTS[0])
    with pytest.raises(InputError, match=message):
        tla.generate(model, PROMPT, KINDS["clt-relu"](model), HELD, **options)
