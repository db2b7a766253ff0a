"""Answers of several tokens, given or generated: each token's logit at its position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.hosts.test_chat import USER, chat_model, new_model
from tests.models import RAW_HOSTS, tiny
from tests.random_dictionaries import transcoder
from tl_attribution.errors import InputError
from tl_attribution.graph.description import summary_rows

TEXT = " w5 w16 w29 w5 w37"
PROMPT = [1, 9, 20, 33, 9, 41]
ANSWER = " w3 w8 w3"
ANSWER_IDS = [7, 12, 7]

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module", params=RAW_HOSTS)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("gpt2", request.param)


def targets(graph: tla.Graph) -> list[tuple[int, int]]:
    """(position, token id) of every logit."""
    return [(node.position, node.index) for node in graph.nodes if node.kind == "logit"]


def test_each_token_of_an_answer_is_explained_at_its_position(model: Any) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=ANSWER)
    assert targets(graph) == [(5, 7), (6, 12), (7, 7)]
    assert graph.target_weights[-3:].tolist() == pytest.approx([1 / 3] * 3)
    assert graph.residual() < 1e-4
    logits = model(torch.tensor([PROMPT + ANSWER_IDS]))[0].detach()
    logits = logits - logits.mean(-1, keepdim=True)
    measured = [float(logits[position, token]) for position, token in targets(graph)]
    assert graph.preactivation[-3:].tolist() == pytest.approx(measured, abs=1e-4)


def test_an_answer_of_one_token_is_that_target(model: Any) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=" w3")
    target = tla.attribute(model, TEXT, transcoder(), targets=tla.TokenTarget(" w3", weight=1.0))
    assert torch.equal(graph.adjacency, target.adjacency)
    assert torch.equal(graph.target_weights, target.target_weights)
    assert graph.metadata.token_ids == tuple(PROMPT)


@pytest.mark.parametrize(("number", "before"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)])
def test_one_token_of_an_answer_by_number(model: Any, number: int, before: int) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=ANSWER, answer_token=number)
    assert targets(graph) == [(5 + before, ANSWER_IDS[before])]
    assert graph.target_weights[-1] == 1
    assert graph.metadata.token_ids == tuple(PROMPT + ANSWER_IDS[:before])
    assert graph.metadata.settings["answer_token"] == number


def test_the_graph_knows_prompt_and_answer(model: Any, tmp_path: Path) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=ANSWER)
    assert (graph.metadata.prompt, graph.metadata.answer) == (TEXT, ANSWER)
    assert ("explained", f'"{ANSWER}"') in summary_rows(graph)
    graph.save(tmp_path / "g.safetensors")
    assert tla.load_graph(tmp_path / "g.safetensors") == graph
    assert tla.attribute(model, TEXT, transcoder()).metadata.answer == ""
    assert tla.validate(model, graph, transcoder(), max_features=4).direct.worst < 1e-3


def test_text_ids_runs_and_graphs_give_the_same_answer(model: Any) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=ANSWER)
    assert tla.attribute(model, PROMPT, transcoder(), answer=ANSWER_IDS) == graph
    assert tla.attribute(tla.prepare(model, TEXT, transcoder()), answer=ANSWER) == graph
    of_graph = tla.attribute(model, TEXT, transcoder())
    assert tla.attribute(model, of_graph, transcoder(), answer=ANSWER) == graph


@pytest.mark.parametrize("n", [1, 4])
def test_the_model_answers_first(model: Any, n: int) -> None:
    new = tla.generate(model, TEXT, transcoder(), max_new_tokens=n, freeze_attention=False)
    graph = tla.attribute(model, TEXT, transcoder(), generate=n)
    assert targets(graph) == [(5 + n - 1, new.token_ids[-1])]
    assert graph.metadata.answer == new.text
    assert graph.metadata.answers[0].token_id == new.token_ids[-1]
    assert graph.metadata.settings["generate"] == n
    first = tla.attribute(model, TEXT, transcoder(), generate=n, answer_token=0)
    assert targets(first) == [(5, new.token_ids[0])]


@pytest.mark.parametrize("host", RAW_HOSTS)
def test_the_models_answer_ends_with_eos(host: str) -> None:
    model = new_model(host)
    new = tla.generate(model, TEXT, transcoder(), max_new_tokens=4, freeze_attention=False)
    end = new.token_ids.index(new.token_ids[1])
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(new.token_ids[1])
    graph = tla.attribute(model, TEXT, transcoder(), generate=4)
    assert targets(graph) == [(5 + end, new.token_ids[1])]
    assert graph.metadata.answer == "".join(new.tokens[: end + 1])


@pytest.mark.parametrize("host", RAW_HOSTS)
def test_a_chat_has_an_answer(host: str) -> None:
    graph = tla.attribute(chat_model(host), [USER], transcoder(), answer=" w3 w8")
    assert graph.metadata.prefix == 3
    assert targets(graph) == [(7, 7), (8, 12)]
    assert tla.attribute(chat_model(host), [USER], transcoder(), generate=2).metadata.answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer": ""}, "the answer is empty"),
        ({"answer": []}, "the answer is empty"),
        (
            {"answer": "1 w3"},
            "'1 w3' differently after the prompt than alone: together they end in '<unk>', ' w3', "
            "apart in ' w37' and '<unk>', ' w3'",
        ),
        ({"answer": " w3 Reykjavik"}, "does not have all of the answer .*read as ' w3', '<unk>'"),
        ({"answer": [7, 99]}, "token id 99 is outside"),
        ({"answer": ANSWER, "targets": " w3"}, "answer and targets exclude each other"),
        ({"generate": 2, "targets": " w3"}, "generate and targets exclude each other"),
        ({"answer": ANSWER, "generate": 2}, "answer and generate exclude each other"),
        ({"generate": 0}, "generate must be at least 1, got 0"),
        ({"generate": -3}, "generate must be at least 1, got -3"),
        ({"answer_token": 0}, "answer_token is the number of a token of answer= or generate="),
        ({"answer": ANSWER, "answer_token": 3}, "3 tokens ' w3', ' w8', ' w3'; give 0 to 2"),
        ({"answer": ANSWER, "answer_token": -4}, "answer_token=-4"),
        ({"answer": " w3" * 28}, "6 tokens and an answer of 28 are more than the 32.*27 tokens"),
        ({"generate": 28}, "6 tokens and an answer of 28 are more than the 32 that tiny-gpt2"),
    ],
)
def test_answers_that_cannot_be_explained(
    model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tla.attribute(model, TEXT, transcoder(), **options)


def test_an_answer_may_fill_the_context(model: Any) -> None:
    graph = tla.attribute(model, TEXT, transcoder(), answer=" w3" * 27, max_features=5)
    assert len(graph.metadata.tokens) == 32


def test_a_text_answer_needs_a_tokenizer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(InputError, match="has no tokenizer; give token ids"):
        tla.attribute(model, PROMPT, transcoder(), answer=ANSWER)
    graph = tla.attribute(model, PROMPT, transcoder(), answer=ANSWER_IDS, prefix=1)
    assert targets(graph) == [(5, 7), (6, 12), (7, 7)]
