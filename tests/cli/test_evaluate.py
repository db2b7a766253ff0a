"""``tl-attribution evaluate``: its options reach the library, and its report is the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

import tl_attribution as tla
from tests.cli.outcome import Outcome, is_one_line_about
from tl_attribution.evaluation.results import (
    AnswerMetrics,
    Distribution,
    Evaluation,
    GraphScores,
    LayerEvaluation,
    ReplacementMetrics,
)

DENSITY = (0,) * 12 + (1, 0, 2, 3, 8, 4, 2, 2, 1, 0, 0, 0)


def small_evaluation() -> Evaluation:
    layer = LayerEvaluation(
        0.25, 0.8125, 3.5, 2, DENSITY, ReplacementMetrics(0.9, 0.125, 2.1, 3.0, None)
    )
    spread = Distribution(0.8, 0.5, 0.6, 0.75, 0.9, 1.0)
    return Evaluation(
        model="[red]toy\x1b",
        dictionary="neurons",
        n_features=25,
        contexts=7,
        tokens=1234,
        loss=2.0,
        layers=(layer, layer),
        replaced=ReplacementMetrics(0.75, 0.5, 2.5, 4.0, 0.755),
        answers={
            "[b]all": AnswerMetrics(4, 0.5, 2, 1.0, 0.5),
            "bare": AnswerMetrics(4, 1.0, 0, None, None),
        },
        graphs=GraphScores(3, spread, spread, Distribution(*[2e-7] * 6)),
    )


@pytest.fixture
def cli(cli: Callable[..., Outcome]) -> Callable[..., Outcome]:
    return lambda *arguments: cli("evaluate", *arguments)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the library's functions; ``evaluate`` returns the small evaluation."""
    calls: dict[str, Any] = {}
    dictionary = create_autospec(tla.Dictionary, instance=True)

    def evaluate(model: Any, dictionary: Any, dataset: Any, **settings: Any) -> Evaluation:
        settings.pop("progress")(3, 4, "contexts")
        calls.update(dataset=dataset, **settings)
        return small_evaluation()

    def remember(name: str, answer: Any) -> Callable[..., Any]:
        return lambda given, **_: calls.update({name: given}) or answer

    monkeypatch.setattr(tla, "load_model", remember("load_model", "a model"), raising=False)
    monkeypatch.setattr(tla, "neurons", remember("neurons", dictionary), raising=False)
    monkeypatch.setattr(tla, "load_dictionary", remember("load_dictionary", dictionary))
    monkeypatch.setattr(tla, "evaluate", evaluate, raising=False)
    return calls


def test_without_a_dataset_atlas_is_asked_its_own_questions(
    cli: Callable[..., Outcome], calls: dict[str, Any]
) -> None:
    from tl_attribution.atlas import corpus

    assert cli("neurons", "--contexts", "20", "--graphs", "2").code == 0
    assert (calls["load_model"], calls["neurons"]) == ("atlas", "a model")
    assert (calls["concat"], calls["contexts"], calls["graphs"]) == (False, 20, 2)
    held_out_prompts = {q.prompt for q in corpus.questions() if q.held_out}
    groups = calls["prompts"]
    assert {name: len(group) for name, group in groups.items()} == {"all": 20, "held out": 20}
    assert {prompt for prompt, _ in groups["held out"]} <= held_out_prompts
    assert calls["dataset"] == [f"{prompt} {answer}." for prompt, answer in groups["all"]]
    first = dict(calls)
    assert cli("neurons", "--contexts", "20", "--graphs", "2").code == 0
    assert calls == first
    assert cli("neurons", "--contexts", "20", "--seed", "1").code == 0
    assert calls["dataset"] != first["dataset"]


def test_every_option_reaches_the_library(
    cli: Callable[..., Outcome], calls: dict[str, Any], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one two\tthree\n\nfour\n")
    options = "--model m --contexts 5 --context 9 --no-concat --column c --graphs 1 --seed 3"
    assert cli("d", "data", *options.split(), "--prompts", prompts).code == 0
    assert calls == {
        "load_model": "m",
        "load_dictionary": "d",
        "dataset": "data",
        "prompts": {"prompts": [("one two", "three"), "four"]},
        "contexts": 5,
        "context": 9,
        "concat": False,
        "column": "c",
        "graphs": 1,
        "seed": 3,
    }


def test_the_model_is_the_one_that_the_dictionary_was_trained_on(
    cli: Callable[..., Outcome], calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = create_autospec(tla.Dictionary, instance=True, model_name="me/m")
    monkeypatch.setattr(
        tla, "load_dictionary", lambda name, **options: calls.update(options) or dictionary
    )
    assert cli("d", "data", "--reads", "hook_resid_pre", "--k", "3").code == 0
    assert calls["load_model"] == "me/m"
    assert (calls["feature_input_hook"], calls["k"]) == ("hook_resid_pre", 3)


@pytest.mark.usefixtures("calls")
def test_it_tells_the_evaluation(cli: Callable[..., Outcome]) -> None:
    out = cli("neurons").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "0 0.250 0.812 3.5 8.0% ▁▄█▃▁ 90.0% 0.125 –" in lines
    assert "mean 0.250 0.812 3.5 8.0% 90.0% 0.125 –" in lines
    assert "all at once 75.0% 0.500 75.5%" in lines
    assert "[b]all 4 50.0% 100.0% 50.0%" in lines
    assert "bare 4 100.0% – –" in lines
    assert "replacement 0.800 0.500 0.600 0.750 0.900 1.000" in lines
    assert r"neurons of [red]toy\x1b: 25 features per layer, on 1,234 tokens" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("calls")
def test_it_fits_a_narrow_terminal(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "…" not in cli("neurons").out


@pytest.mark.usefixtures("calls")
def test_files_are_written(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    text, plot = tmp_path / "new" / "e.json", tmp_path / "new" / "e.svg"
    out = cli("neurons", "--json", text, "--plot", plot).out
    assert "wrote" in out
    assert Evaluation.from_json(text) == small_evaluation()
    assert json.loads(text.read_text())["layers"][0]["replaced"]["loss_recovered"] is None
    assert "<svg" in plot.read_text()


@pytest.mark.usefixtures("calls")
def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("neurons").err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "3/4" in cli("neurons").err


def test_what_cannot_work_fails_before_the_work(
    cli: Callable[..., Outcome], calls: dict[str, Any], tmp_path: Path
) -> None:
    bad = {
        "no.txt": None,
        "empty.txt": b"\n \n",
        "tabs.txt": b"one\na\tb\tc\n",
        "none.txt": b"one\t\n",
        "bytes.txt": b"\xff\xfe",
    }
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    files = {
        "no.txt": "no file of prompts",
        "empty.txt": "has no prompts",
        "tabs.txt": "line 2: expected a prompt, or prompt TAB answer",
        "none.txt": "line 1: expected",
        "bytes.txt": "is not UTF-8",
    }
    for name, message in files.items():
        assert is_one_line_about(cli("neurons", "--prompts", tmp_path / name), message)
    same = tmp_path / "same.svg"
    assert is_one_line_about(cli("neurons", "--plot", "a.pdf"), "an .svg or .png file")
    assert is_one_line_about(cli("neurons", "--json", tmp_path), "is a folder")
    assert is_one_line_about(cli("neurons", "--json", same, "--plot", same), "different files")
    assert is_one_line_about(cli("neurons", "--model", "gpt2"), "give a DATASET")
    assert calls == {}


@pytest.mark.hosts
def test_bad_input_is_one_line(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # earlier tests imported tqdm before the command could quiet it
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"text": "Fact: Austin"}\n')
    (tmp_path / "one.txt").write_text("Fact: the capital of Texas is\n")
    for arguments, message in (
        (("neuron",), "did you mean 'neurons'?"),
        (("neurons", tmp_path / "none"), "no file or folder"),
        (("neurons", tmp_path / "empty.txt"), "empty"),
        (("neurons", tmp_path / "rows.jsonl", "--column", "body"), "no column"),
        (("neurons", "--prompts", tmp_path / "one.txt", "--graphs", "2"), "more than the 1"),
    ):
        assert is_one_line_about(cli(*arguments), message)


@pytest.mark.hosts
def test_atlas_and_its_neurons_from_questions_to_files(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    text = tmp_path / "e.json"
    assert cli("neurons", "--contexts", "3", "--graphs", "1", "--json", text).code == 0
    evaluation = Evaluation.from_json(text)
    assert evaluation.replaced.agreement == 1
    assert evaluation.answers["held out"].agreement == 1
    assert (evaluation.nmse or 0) < 1e-6
