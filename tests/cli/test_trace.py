"""``tl-attribution trace``: its options reach the library, and its report is that of the graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

import tl_attribution as tla
from tests.cli.graphs import small_graph
from tests.cli.outcome import Outcome, is_one_line_about
from tl_attribution.cli import main

DALLAS = "Fact: the capital of the state containing Dallas is"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the library's functions; ``attribute`` returns the small graph."""
    calls: dict[str, Any] = {}
    dictionary = create_autospec(tla.Dictionary, instance=True)

    def attribute(model: Any, prompt: str, dictionary: Any, **settings: Any) -> tla.Graph:
        calls.update(prompt=prompt, **settings)
        settings["progress"](3, 4, "features")
        return small_graph()

    def remember(name: str, answer: Any) -> Callable[..., Any]:
        return lambda given, **_: calls.update({name: given}) or answer

    monkeypatch.setattr(tla, "load_model", remember("load_model", "a model"), raising=False)
    monkeypatch.setattr(tla, "neurons", remember("neurons", dictionary), raising=False)
    monkeypatch.setattr(tla, "load_dictionary", remember("load_dictionary", dictionary))
    monkeypatch.setattr(tla, "attribute", attribute)
    return calls


def test_defaults_are_atlas_and_its_dictionary(
    cli: Callable[..., Outcome], calls: dict[str, Any]
) -> None:
    outcome = cli("trace", DALLAS)
    assert outcome.code == 0
    progress = calls.pop("progress")
    assert callable(progress)
    assert calls == {
        "load_model": "atlas",
        "load_dictionary": "atlas",
        "prompt": DALLAS,
        "targets": None,
        "answer": None,
        "answer_token": None,
        "generate": None,
        "max_logits": 10,
        "logit_mass": 0.95,
        "coverage": None,
        "max_features": None,
        "prefix": None,
        "engine": "closed_form",
    }


def test_a_chat_and_an_answer_reach_the_library(
    cli: Callable[..., Outcome], calls: dict[str, Any]
) -> None:
    chat = ("trace", DALLAS, "--chat")
    user = {"role": "user", "content": DALLAS}
    assert cli(*chat).code == 0
    assert calls["prompt"] == [user]
    assert (
        cli(*chat, "--system", "Be brief.", "--answer", " Austin", "--answer-token", "-1").code == 0
    )
    assert calls["prompt"] == [{"role": "system", "content": "Be brief."}, user]
    assert (calls["answer"], calls["answer_token"], calls["generate"]) == (" Austin", -1, None)
    assert cli(*chat, "--generate", "3").code == 0
    assert calls["generate"] == 3
    assert is_one_line_about(cli("trace", DALLAS, "--system", "Be brief."), "give --chat with it")


@pytest.mark.hosts
def test_atlas_answers_in_several_tokens_and_is_not_a_chat_model(
    cli: Callable[..., Outcome],
) -> None:
    ran = cli("trace", DALLAS, "--answer", " Austin.")
    assert ran.code == 0, ran.err
    assert '" Austin."' in ran.out
    assert is_one_line_about(cli("trace", DALLAS, "--chat"), "atlas has no chat template")
    assert is_one_line_about(cli("trace", DALLAS, "--answer", ""), "the answer is empty")
    assert is_one_line_about(cli("trace", DALLAS, "--generate", "0"), "generate must be at least 1")


def test_every_option_reaches_the_library(
    cli: Callable[..., Outcome], calls: dict[str, Any]
) -> None:
    options = "--model m --dictionary d --max-logits 3 --logit-mass 0.5 --coverage 0.9"
    more = "--max-features 7 --prefix 2 --engine autograd"
    targets = ("--target", " Austin", "--target", "[red]")
    assert cli("trace", DALLAS, *options.split(), *more.split(), *targets).code == 0
    calls.pop("progress")
    assert calls == {
        "load_model": "m",
        "load_dictionary": "d",
        "prompt": DALLAS,
        "targets": [" Austin", "[red]"],
        "answer": None,
        "answer_token": None,
        "generate": None,
        "max_logits": 3,
        "logit_mass": 0.5,
        "coverage": 0.9,
        "max_features": 7,
        "prefix": 2,
        "engine": "autograd",
    }


@pytest.mark.usefixtures("calls")
def test_it_tells_the_graph(cli: Callable[..., Outcome]) -> None:
    graph, out = small_graph(), cli("trace", DALLAS).out
    scores, lines = graph.scores(), [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith('90.0% " Austin"') for line in lines)
    assert any(line.startswith('5.0% " Paris"') for line in lines)
    assert f"edges {graph.n_edges} {graph.prune().n_edges}" in lines
    assert "features 2 2" in lines
    assert f"replacement score {scores.replacement:.3f}" in lines
    assert f"completeness score {scores.completeness:.3f}" in lines
    assert f"residual {graph.residual():.1e}" in lines
    strongest = lines[lines.index("strongest paths") + 1]
    assert "layer 0 #7" in strongest
    assert strongest.endswith('→ " Austin"')


@pytest.mark.usefixtures("calls")
def test_what_a_prompt_holds_is_text_whatever_it_looks_like(cli: Callable[..., Outcome]) -> None:
    out = cli("trace", DALLAS).out
    assert r'" [red]Dallas[/red]\x1b[31m:smile:"' in out
    assert "[bold]Texas" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("calls")
def test_out_is_the_whole_graph_and_the_others_are_pruned(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    out, page, text = (tmp_path / "new" / name for name in ("g.safetensors", "g.html", "g.json"))
    thresholds = ("--node-threshold", "0.6", "--edge-threshold", "0.9")
    outcome = cli("trace", DALLAS, "--out", out, "--json", text, "--html", page, *thresholds)
    assert outcome.code == 0
    assert all(f"wrote {path}" in outcome.out for path in (out, text, page))
    assert tla.load_graph(out) == small_graph()
    pruned = small_graph().prune(0.6, 0.9)
    assert len(pruned.nodes) < len(small_graph().nodes)
    assert {node["node_id"] for node in json.loads(text.read_text())["nodes"]} == {
        node.id for node in pruned.nodes
    }
    assert "<html" in page.read_text()


@pytest.mark.usefixtures("calls")
def test_wandb_gets_the_whole_graph_and_the_address_is_told(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[tla.Graph, str]] = []

    def log_graph(graph: tla.Graph, run: str) -> str:
        logged.append((graph, run))
        return "wandb:team/p/graph-x:latest"

    monkeypatch.setattr(tla, "log_graph", log_graph, raising=False)
    outcome = cli("trace", DALLAS, "--wandb", "team/p")
    assert outcome.code == 0
    assert logged == [(small_graph(), "wandb:team/p")]
    assert "wrote wandb:team/p/graph-x:latest" in outcome.out


def test_a_place_in_wandb_that_is_no_project_fails_before_the_work(
    cli: Callable[..., Outcome], calls: dict[str, Any]
) -> None:
    assert is_one_line_about(cli("trace", DALLAS, "--wandb", "a/b/c"), "ENTITY/PROJECT")
    assert "load_model" not in calls


@pytest.mark.usefixtures("calls")
def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("trace", DALLAS).err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "3/4" in cli("trace", DALLAS).err


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("option", ["--out", "--json", "--html"])
def test_a_folder_is_no_destination(
    cli: Callable[..., Outcome], calls: dict[str, Any], tmp_path: Path, option: str
) -> None:
    outcome = cli("trace", DALLAS, option, tmp_path)
    assert is_one_line_about(outcome, f"{option} {tmp_path} is a folder")
    assert "load_model" not in calls, "it should fail before the work, not after it"


@pytest.mark.usefixtures("calls")
def test_a_destination_that_cannot_be_written(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("trace", DALLAS, "--out", tmp_path / "file" / "below.safetensors")
    assert is_one_line_about(outcome, "cannot write")


def test_one_file_cannot_be_two_things(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    same = tmp_path / "same"
    outcome = cli("trace", DALLAS, "--out", same, "--json", same)
    assert is_one_line_about(outcome, "must be different files")


def test_an_error_of_ours_is_one_line_and_harmless(
    cli: Callable[..., Outcome], calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise tla.NotFoundError(f"no model {name!r}\nsecond line \x1b[31m")

    monkeypatch.setattr(tla, "load_model", fail)
    outcome = cli("trace", DALLAS, "--model", "[red]x")
    assert is_one_line_about(outcome, r"no model '[red]x'\nsecond line \x1b[31m")
    assert outcome.out == ""
    assert calls == {}


def test_an_error_that_is_not_ours_keeps_its_traceback(
    calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(tla, "load_model", fail)
    with pytest.raises(ZeroDivisionError, match="atlas"):
        main(["trace", DALLAS])
    assert calls == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--node-threshold", "1.5"),
        ("--edge-threshold", "-0.1"),
        ("--logit-mass", "2"),
        ("--coverage", "1.01"),
        ("--max-logits", "0"),
        ("--max-features", "0"),
        ("--prefix", "-1"),
        ("--engine", "[red]warp"),
    ],
)
def test_impossible_numbers_are_refused_by_name(
    cli: Callable[..., Outcome], calls: dict[str, Any], arguments: tuple[str, str]
) -> None:
    outcome = cli("trace", DALLAS, *arguments)
    assert outcome.code == 2
    assert f"Invalid value for '{arguments[0]}'" in outcome.err
    assert calls == {}


def test_help_names_every_command_and_version_says_which(cli: Callable[..., Outcome]) -> None:
    assert "trace" in cli("--help").out
    assert cli("--version").out.startswith("tl-attribution 0.1.0 (transformer-lens ")


@pytest.mark.usefixtures("calls")
def test_a_graph_without_paths_says_so(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_edges(*_: Any, **__: Any) -> tla.Graph:
        graph = small_graph()
        return replace(graph, adjacency=torch.zeros_like(graph.adjacency))

    monkeypatch.setattr(tla, "attribute", without_edges)
    outcome = cli("trace", DALLAS)
    assert outcome.code == 0
    assert "none: no token reaches what is explained" in outcome.out


@pytest.mark.hosts
def test_the_dallas_graph_from_prompt_to_files(tmp_path: Path) -> None:
    out, text, page = (tmp_path / name for name in ("d.safetensors", "d.json", "d.html"))
    files = ("--out", str(out), "--json", str(text), "--html", str(page))
    command = [sys.executable, "-m", "tl_attribution", "trace", DALLAS, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    graph = tla.load_graph(out)
    assert graph.metadata.answers[0].token == " Austin"
    assert '" Austin"' in done.stdout.split("answers")[1].splitlines()[1]
    assert graph.residual() <= 1e-4
    assert len(json.loads(text.read_text())["nodes"]) == len(graph.prune().nodes)


@pytest.mark.hosts
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "prompt"),
        ((DALLAS, "--model", "atlass"), "did you mean 'atlas'?"),
        ((DALLAS, "--dictionary", "neuron"), "did you mean 'neurons'?"),
        ((DALLAS, "--target", " Austin Texas"), "' Austin', ' Texas'"),
        ((DALLAS, "--logit-mass", "0"), "logit_mass"),
        ((DALLAS, "--prefix", "99"), "prefix"),
    ],
)
def test_bad_input_is_one_line(
    cli: Callable[..., Outcome], arguments: tuple[str, ...], message: str
) -> None:
    assert is_one_line_about(cli("trace", *arguments), message)
