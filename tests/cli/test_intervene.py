"""``tl-attribution intervene`` and ``validate``: their options reach the library; their reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tl_attribution as tla
from tests.cli.outcome import Outcome, is_one_line_about
from tests.hosts.test_chat import chat_model
from tests.models import HOSTS, RAW_HOSTS, tiny
from tests.random_dictionaries import transcoder
from tl_attribution.dictionaries import loading

TEXT = " w5 w16 w29 w5 w37"
pytestmark = pytest.mark.hosts


@pytest.fixture
def cli(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line with a tiny model in place of what would be loaded."""
    monkeypatch.setattr(tla, "load_model", lambda name: tiny("gpt2", HOSTS[0]), raising=False)
    monkeypatch.setattr(tla, "load_dictionary", lambda name, **_: transcoder())
    return cli


def remember(loaded_names: list[str]) -> Callable[[str], Any]:
    """A load_model that records the names of the loaded models."""
    return lambda name: loaded_names.append(name) or tiny("gpt2", HOSTS[0])


def test_the_model_is_the_one_that_the_dictionary_was_trained_on(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the options for metadata that its files lack are checked and used."""
    dictionary, loaded_names = transcoder(), list[str]()
    dictionary.model_name = "me/tiny-gpt2"
    dictionary.save(tmp_path / "d")
    monkeypatch.setattr(tla, "load_dictionary", loading.load_dictionary)
    monkeypatch.setattr(tla, "load_model", remember(loaded_names))
    change = ("intervene", TEXT, "--ablate", "0:2:3", "--dictionary", tmp_path / "d")
    assert cli(*change).code == 0
    assert cli(*change, "--model", "other").code == 0
    assert cli(*change, "--trained-on", "again/tiny-gpt2").code == 0
    assert loaded_names == ["me/tiny-gpt2", "other", "again/tiny-gpt2"]
    assert is_one_line_about(cli(*change, "--trained-on", "x"), "line --trained-on tiny-gpt2")
    assert is_one_line_about(cli(*change, "--reads", "hook_nowhere"), "hook_nowhere")
    assert is_one_line_about(cli(*change, "--k", "3"), "k=3 is for TopK; this is a")
    assert is_one_line_about(cli(*change[:4], "--k", "3", "--dictionary", "neurons"), "not neurons")
    config = json.loads((tmp_path / "d" / "config.json").read_text())
    (tmp_path / "d" / "config.json").write_text(json.dumps({**config, "model_name": None}))
    assert is_one_line_about(cli(*change), "was trained on is unknown")
    assert cli(*change, "--trained-on", "tiny-gpt2").code == 0


def test_it_tells_what_changed_and_the_answers(cli: Callable[..., Outcome]) -> None:
    changes = ("--set", "0:2:3=2.5", "--scale", "1:-1:4=-1", "--add", "0:3..:1=0.5")
    outcome = cli("intervene", TEXT, *changes, "--ablate", "1:1..3:2", "--generate", "3")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    assert next(r for r in rows if r[-1:] == ["2.500"])[:5] == ["0", '"', 'w16"', "(2)", "3"]
    interventions = [
        tla.Intervention(0, 2, 3, 2.5),
        tla.Intervention.scale(1, -1, 4, -1.0),
        tla.Intervention.add(0, slice(3, None), 1, 0.5),
        tla.Intervention.ablate(1, slice(1, 3), 2),
    ]
    run = tla.intervene(tiny("gpt2", HOSTS[0]), TEXT, transcoder(), interventions)
    best = int(run.logits[-1].argmax())
    best_row = outcome.out.split("answers")[1].splitlines()[2]
    share = [x[-1].softmax(-1)[best] for x in (run.original_logits, run.logits)]
    token = run.prompt_run.host.token_strings([best])[0]
    assert f'"{token}"' in best_row
    assert f"{float(share[0]):.1%}" in best_row
    assert f"{float(share[1]):.1%}" in best_row
    assert "before" in outcome.out.splitlines()[-2]


def test_modes_reach_the_library(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_passed: dict[str, Any] = {}
    run = tla.intervene

    def intervene(*arguments: Any, **settings: Any) -> Any:
        settings_passed.update(settings)
        return run(*arguments, **settings)

    monkeypatch.setattr(tla, "intervene", intervene)
    options = ("--propagation", "constrained", "--layers", "0..2", "--free-attention")
    assert cli("intervene", TEXT, "--ablate", "0:2:3", *options, "--prefix", "2").code == 0
    assert settings_passed == {
        "propagation": "constrained",
        "layers": range(0, 2),
        "freeze_attention": False,
        "prefix": 2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to change"),
        (("--set", "0:2:3"), "is not LAYER:POSITION:FEATURE=VALUE"),
        (("--set", "0:2=1"), "is not LAYER:POSITION:FEATURE=VALUE"),
        (("--set", "0:2:3=much"), "'much' is not a number"),
        (("--set", "0:2:3=nan"), "cannot be held at nan"),
        (("--ablate", "0:2:3=1"), "is not LAYER:POSITION:FEATURE, as in"),
        (("--set", "9:2:3=1"), "layer 9 of"),
        (("--ablate", "0:2:3", "--layers", "2"), "is not A..B"),
        (("--ablate", "0:2:3", "--layers", "0..2"), "go together"),
        (("--ablate", "0:2:3", "--generate", "99"), "ask for at most 26"),
    ],
)
def test_mistakes_are_one_line(
    cli: Callable[..., Outcome], options: tuple[str, ...], message: str
) -> None:
    assert is_one_line_about(cli("intervene", TEXT, *options), message)


def test_validate_reads_a_graph_and_writes_its_report(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, text, page = (tmp_path / n for n in ("g.safetensors", "v.json", "v.html"))
    tla.attribute(tiny("gpt2", HOSTS[0]), TEXT, transcoder()).save(graph)
    loaded_names: list[str] = []
    monkeypatch.setattr(tla, "load_model", remember(loaded_names))
    assert is_one_line_about(cli("validate", graph), "give --dictionary")
    whole = ("validate", graph, "--dictionary", "d", "--features", "5")
    outcome = cli(*whole, "--json", text, "--html", page)
    assert loaded_names == ["tiny-gpt2"]  # the graph's own
    assert outcome.code == 0, outcome.err
    validation = tla.Validation.from_json(text)
    assert len(validation.tested) == 5
    assert all(sentence in outcome.out for sentence in validation.verdict)
    assert page.read_text().startswith("<!doctype html>")
    assert is_one_line_about(cli("validate", tmp_path / "none"), "no graph file at")


def test_a_chat_is_run_in_its_template(cli: Callable[..., Outcome]) -> None:
    change = ("intervene", " w5 w6", "--ablate", "0:4:3", "--chat")
    assert is_one_line_about(cli(*change), "tiny-gpt2 has no chat template")
    assert is_one_line_about(cli(*change[:4], "--system", " w7"), "give --chat with it")


def test_a_chat_model_runs_the_messages(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tla, "load_model", lambda name: chat_model(RAW_HOSTS[0]), raising=False)
    ran = cli("intervene", " w5 w6", "--ablate", "0:4:3", "--chat", "--system", " w7")
    assert ran.code == 0, ran.err
    assert all(f'{position} "' in ran.out for position in range(12))
    assert ' 3 " w7"' in ran.out
