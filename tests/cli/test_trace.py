"""``tl-attribution trace``: what is asked reaches the library, what is told is the graph."""

from __future__ import annotations

import json
import os
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
from tests.cli.running import Ran, is_one_line_about
from tl_attribution.cli import main

DALLAS = "Fact: the capital of the state containing Dallas is"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asked of the library, which answers with the small graph."""
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
    cli: Callable[..., Ran], asked: dict[str, Any]
) -> None:
    ran = cli("trace", DALLAS)
    assert ran.code == 0
    progress = asked.pop("progress")
    assert callable(progress)
    assert asked == {
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
    cli: Callable[..., Ran], asked: dict[str, Any]
) -> None:
    chat = ("trace", DALLAS, "--chat")
    user = {"role": "user", "content": DALLAS}
    assert cli(*chat).code == 0
    assert asked["prompt"] == [user]
    assert (
        cli(*chat, "--system", "Be brief.", "--answer", " Austin", "--answer-token", "-1").code == 0
    )
    assert asked["prompt"] == [{"role": "system", "content": "Be brief."}, user]
    assert (asked["answer"], asked["answer_token"], asked["generate"]) == (" Austin", -1, None)
    assert cli(*chat, "--generate", "3").code == 0
    assert asked["generate"] == 3
    assert is_one_line_about(cli("trace", DALLAS, "--system", "Be brief."), "give --chat with it")


@pytest.mark.hosts
def test_atlas_answers_in_several_tokens_and_is_not_a_chat_model(cli: Callable[..., Ran]) -> None:
    ran = cli("trace", DALLAS, "--answer", " Austin.")
    assert ran.code == 0, ran.err
    assert '" Austin."' in ran.out
    assert is_one_line_about(cli("trace", DALLAS, "--chat"), "atlas has no chat template")
    assert is_one_line_about(cli("trace", DALLAS, "--answer", ""), "the answer is empty")
    assert is_one_line_about(cli("trace", DALLAS, "--generate", "0"), "generate must be at least 1")


def test_every_option_reaches_the_library(cli: Callable[..., Ran], asked: dict[str, Any]) -> None:
    options = "--model m --dictionary d --max-logits 3 --logit-mass 0.5 --coverage 0.9"
    more = "--max-features 7 --prefix 2 --engine autograd"
    targets = ("--target", " Austin", "--target", "[red]")
    assert cli("trace", DALLAS, *options.split(), *more.split(), *targets).code == 0
    asked.pop("progress")
    assert asked == {
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


@pytest.mark.usefixtures("asked")
def test_it_tells_the_graph(cli: Callable[..., Ran]) -> None:
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


@pytest.mark.usefixtures("asked")
def test_what_a_prompt_holds_is_text_whatever_it_looks_like(cli: Callable[..., Ran]) -> None:
    out = cli("trace", DALLAS).out
    assert r'" [red]Dallas[/red]\x1b[31m:smile:"' in out
    assert "[bold]Texas" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("asked")
def test_out_is_the_whole_graph_and_the_others_are_pruned(
    cli: Callable[..., Ran], tmp_path: Path
) -> None:
    out, page, text = (tmp_path / "new" / name for name in ("g.safetensors", "g.html", "g.json"))
    thresholds = ("--node-threshold", "0.6", "--edge-threshold", "0.9")
    ran = cli("trace", DALLAS, "--out", out, "--json", text, "--html", page, *thresholds)
    assert ran.code == 0
    assert all(f"wrote {path}" in ran.out for path in (out, text, page))
    assert tla.load_graph(out) == small_graph()
    pruned = small_graph().prune(0.6, 0.9)
    assert len(pruned.nodes) < len(small_graph().nodes)
    assert {node["node_id"] for node in json.loads(text.read_text())["nodes"]} == {
        node.id for node in pruned.nodes
    }
    assert "<html" in page.read_text()


@pytest.mark.usefixtures("asked")
def test_wandb_gets_the_whole_graph_and_the_address_is_told(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[tla.Graph, str]] = []

    def log_graph(graph: tla.Graph, run: str) -> str:
        logged.append((graph, run))
        return "wandb:team/p/graph-x:latest"

    monkeypatch.setattr(tla, "log_graph", log_graph, raising=False)
    ran = cli("trace", DALLAS, "--wandb", "team/p")
    assert ran.code == 0
    assert logged == [(small_graph(), "wandb:team/p")]
    assert "wrote wandb:team/p/graph-x:latest" in ran.out


def test_a_place_in_wandb_that_is_no_project_fails_before_the_work(
    cli: Callable[..., Ran], asked: dict[str, Any]
) -> None:
    assert is_one_line_about(cli("trace", DALLAS, "--wandb", "a/b/c"), "ENTITY/PROJECT")
    assert "load_model" not in asked


@pytest.mark.usefixtures("asked")
def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("trace", DALLAS).err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "3/4" in cli("trace", DALLAS).err


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("option", ["--out", "--json", "--html"])
def test_a_folder_is_no_destination(
    cli: Callable[..., Ran], asked: dict[str, Any], tmp_path: Path, option: str
) -> None:
    ran = cli("trace", DALLAS, option, tmp_path)
    assert is_one_line_about(ran, f"{option} {tmp_path} is a folder")
    assert "load_model" not in asked, "it should fail before the work, not after it"


@pytest.mark.usefixtures("asked")
def test_a_destination_that_cannot_be_written(cli: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("trace", DALLAS, "--out", tmp_path / "file" / "below.safetensors")
    assert is_one_line_about(ran, "cannot write")


def test_one_file_cannot_be_two_things(cli: Callable[..., Ran], tmp_path: Path) -> None:
    same = tmp_path / "same"
    ran = cli("trace", DALLAS, "--out", same, "--json", same)
    assert is_one_line_about(ran, "must be different files")


def test_an_error_of_ours_is_one_line_and_harmless(
    cli: Callable[..., Ran], asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise tla.NotFoundError(f"no model {name!r}\nsecond line \x1b[31m")

    monkeypatch.setattr(tla, "load_model", fail)
    ran = cli("trace", DALLAS, "--model", "[red]x")
    assert is_one_line_about(ran, r"no model '[red]x'\nsecond line \x1b[31m")
    assert ran.out == ""
    assert asked == {}


def test_an_error_that_is_not_ours_keeps_its_traceback(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(tla, "load_model", fail)
    with pytest.raises(ZeroDivisionError, match="atlas"):
        main(["trace", DALLAS])
    assert asked == {}


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
    cli: Callable[..., Ran], asked: dict[str, Any], arguments: tuple[str, str]
) -> None:
    ran = cli("trace", DALLAS, *arguments)
    assert ran.code == 2
    assert f"Invalid value for '{arguments[0]}'" in ran.err
    assert asked == {}


def test_help_names_every_command_and_version_says_which(cli: Callable[..., Ran]) -> None:
    assert "trace" in cli("--help").out
    assert cli("--version").out.startswith("tl-attribution 0.1.0 (transformer-lens ")


def test_the_package_runs_as_a_module_without_loading_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tl_attribution", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "trace" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tl_attribution.cli.trace" in imported
    assert not imported & {"torch", "transformers", "transformer_lens", "networkx"}


def test_a_terminal_that_cannot_show_a_character_gets_it_escaped() -> None:
    command = [sys.executable, "-m", "tl_attribution", "trace", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"\u2026 and no more" in done.stdout


@pytest.mark.usefixtures("asked")
def test_a_graph_without_paths_says_so(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_edges(*_: Any, **__: Any) -> tla.Graph:
        graph = small_graph()
        return replace(graph, adjacency=torch.zeros_like(graph.adjacency))

    monkeypatch.setattr(tla, "attribute", without_edges)
    ran = cli("trace", DALLAS)
    assert ran.code == 0
    assert "none: no token reaches what is explained" in ran.out


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
    ("arguments", "said"),
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
    cli: Callable[..., Ran], arguments: tuple[str, ...], said: str
) -> None:
    assert is_one_line_about(cli("trace", *arguments), said)
