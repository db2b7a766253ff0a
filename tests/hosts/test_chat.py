"""Chat messages and typed BOS tokens: the ids are the tokenizer's own, and the prefix is what every
conversation shares."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import RAW_HOSTS, bridge, hooked
from tests.random_dictionaries import transcoder
from tl_attribution.errors import InputError

TEMPLATE = """{{ bos_token }}{% for m in messages %}\
{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\
 w40{{ {'user': ' w41', 'system': ' w42', 'assistant': ' w43'}[m.role] }}{{ m.content }}<eos>\
{% endfor %}{% if add_generation_prompt %} w40 w43{% endif %}"""
USER = {"role": "user", "content": " w5 w6"}
SYSTEM = {"role": "system", "content": " w7"}
TEXT = "<bos> w40 w41 w5 w6<eos> w40 w43"
DICTIONARY = transcoder()

pytestmark = pytest.mark.hosts


def new_model(host: str) -> Any:
    """A model that a test may change."""
    return bridge("gpt2") if host == "bridge" else hooked("gpt2")


@cache
def chat_model(host: str) -> Any:
    """A model whose tokenizer has a chat template."""
    model = new_model(host)
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.fixture(params=RAW_HOSTS)
def model(request: pytest.FixtureRequest) -> Any:
    return chat_model(request.param)


def ids(run: tla.PromptRun) -> list[int]:
    return run.snapshot.token_ids.tolist()


def test_messages_are_what_the_template_makes_of_them(model: Any) -> None:
    run = tla.prepare(model, [USER], DICTIONARY)
    plain = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert ids(run) == plain
    assert run.host.token_strings(plain) == (
        "<bos>", " w40", " w41", " w5", " w6", "<eos>", " w40", " w43",
    )  # fmt: skip
    assert run.prefix == 3


@pytest.mark.parametrize("form", ["text", "ids", "tensor", "encoding", "tensors", "dict"])
def test_what_the_template_returns_is_the_same_prompt(model: Any, form: str) -> None:
    messages = [SYSTEM, USER]
    render = model.tokenizer.apply_chat_template
    plain = render(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    prompt: Any = {
        "text": render(messages, tokenize=False, add_generation_prompt=True),
        "ids": plain,
        "tensor": torch.tensor([plain]),
        "encoding": render(messages, add_generation_prompt=True, return_dict=True),
        "tensors": render(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ),
        "dict": {"input_ids": [plain]},
    }[form]
    assert tla.attribute(model, prompt, DICTIONARY) == tla.attribute(model, messages, DICTIONARY)


def test_every_verb_takes_messages(model: Any) -> None:
    graph = tla.attribute(model, [USER], DICTIONARY)
    assert graph.metadata.prompt == " w5 w6<eos> w40 w43"
    assert graph.metadata.prefix == 3
    active = tla.features(model, [USER], DICTIONARY)
    assert isinstance(active, tla.ActiveFeatures)
    assert int(active.position.min()) == 3
    change = tla.Intervention(0, 4, 3, 2.5)
    by_text = tla.intervene(model, TEXT, DICTIONARY, change)
    assert torch.equal(tla.intervene(model, [USER], DICTIONARY, change).logits, by_text.logits)
    new = tla.generate(model, [USER], DICTIONARY, change, max_new_tokens=2)
    assert (
        new.token_ids == tla.generate(model, TEXT, DICTIONARY, change, max_new_tokens=2).token_ids
    )
    logits = tla.replacement_logits(model, [USER], DICTIONARY)
    assert torch.equal(logits, tla.replacement_logits(model, TEXT, DICTIONARY))
    assert tla.validate(model, graph, DICTIONARY, max_features=4).direct.worst < 1e-3


def test_a_system_message_is_not_in_the_prefix(model: Any) -> None:
    assert tla.prepare(model, [SYSTEM, USER], DICTIONARY).prefix == 3
    assert tla.prepare(model, [SYSTEM, USER], DICTIONARY, prefix=1).prefix == 1


def test_a_default_system_message_is_in_the_prefix() -> None:
    model = new_model(RAW_HOSTS[0])
    first = "{% if messages[0].role != 'system' %} w42 w9 w10<eos>{% endif %}"
    model.tokenizer.chat_template = TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}" + first)
    assert tla.prepare(model, [USER], DICTIONARY).prefix == 7
    assert tla.prepare(model, [SYSTEM, USER], DICTIONARY).prefix == 3
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    model.tokenizer.chat_template = refuses + TEMPLATE
    assert tla.prepare(model, [USER], DICTIONARY).prefix == 3
    with pytest.raises(InputError, match=r"the chat template of .* refuses .*: no system"):
        tla.prepare(model, [SYSTEM, USER], DICTIONARY)


def test_an_answer_that_was_begun_goes_on(model: Any) -> None:
    begun = [USER, {"role": "assistant", "content": " w8"}]
    text = "<bos> w40 w41 w5 w6<eos> w40 w43 w8"
    assert ids(tla.prepare(model, begun, DICTIONARY)) == ids(tla.prepare(model, text, DICTIONARY))


def test_text_that_is_not_a_chat_has_bos_as_its_prefix(model: Any) -> None:
    assert tla.prepare(model, " w5 w6", DICTIONARY).prefix == 1
    assert tla.prepare(model, " w40 w6 w7", DICTIONARY).prefix == 1
    assert tla.prepare(model, [5, 6, 7], DICTIONARY).prefix == 0


@pytest.mark.parametrize("typed", ["<bos>", "<bos><bos>", "<bos> w5 w6", "<bos> w5<bos> w6"])
def test_a_typed_bos_is_not_doubled(model: Any, typed: str) -> None:
    plain = model.tokenizer(typed, add_special_tokens=False)["input_ids"]
    run = tla.prepare(model, typed, DICTIONARY)
    assert ids(run) == plain
    logits = model(torch.tensor([plain]))[0]
    assert torch.allclose(run.snapshot.logits, logits, atol=1e-4)


def test_text_without_bos_gets_one(model: Any) -> None:
    assert ids(tla.prepare(model, " w5<bos> w6", DICTIONARY)) == [1, 9, 1, 10]
    assert ids(tla.prepare(model, " w5 w6", DICTIONARY)) == model.to_tokens(" w5 w6")[0].tolist()


@pytest.mark.parametrize("prepends", [True, False])
def test_bos_follows_the_models_setting(
    model: Any, prepends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.cfg, "default_prepend_bos", prepends)
    expected = [1, 9, 10] if prepends else [9, 10]
    assert ids(tla.prepare(model, " w5 w6", DICTIONARY)) == expected
    assert ids(tla.prepare(model, "<bos> w5 w6", DICTIONARY)) == [1, 9, 10]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([SYSTEM], "no user turn, only 'system'"),
        ([{"role": "user"}], r"messages\[0\] is .*expected {'role': 'user'"),
        ([USER, {"content": "x"}], r"messages\[1\] is"),
        ([USER, {"role": "user", "content": None}], r"messages\[1\] is .*both strings"),
        ([{"role": "", "content": "x"}, USER], r"messages\[0\] is"),
        ([USER, {"role": "assistant", "content": ""}], "the last message is empty"),
        ([{"role": "tool", "content": " w1"}, USER], "refuses these messages: no tools here"),
        ([{**USER, "content": " w5" * 40}], "the prompt has 46 tokens; tiny-gpt2 takes 32"),
        (" w5" * 40, "the prompt has 41 tokens; tiny-gpt2 takes 32"),
        (USER, "'role', 'content'; a chat is a list of messages"),
        ({"input_ids": [[5, 6], [7, 8]]}, r"one list of integers.*\(2, 2\)"),
        ({"input_ids": [5, 0], "attention_mask": [1, 0]}, "the prompt is padded"),
        ({"input_ids": [[5], [6, 7]]}, "expected a prompt: text, chat messages or one list"),
        ({"input_ids": []}, "the prompt is empty"),
    ],
)
def test_prompts_that_cannot_be_run(model: Any, prompt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tla.attribute(model, prompt, DICTIONARY)


def test_a_model_without_a_template_or_a_tokenizer(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(InputError, match=r"tiny-gpt2 has no chat template.*set model\.tokenizer"):
        tla.prepare(model, [USER], DICTIONARY)
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(InputError, match="tiny-gpt2 has no tokenizer"):
        tla.prepare(model, [USER], DICTIONARY)
    assert tla.prepare(model, {"input_ids": [5, 6]}, DICTIONARY).prefix == 0
