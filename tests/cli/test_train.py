"""``tl-attribution train``: a run on the bundled model, what it says, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tl_attribution as tla
from tests.cli.outcome import Outcome, is_one_line_about

pytestmark = pytest.mark.hosts

SMALL = ("--features", "32", "--tokens", "1024", "--k", "4")
SET = ("--set", "batch_size=256", "--set", "buffer_size=512", "--set", "k_start=null")


@pytest.fixture
def cli(cli: Callable[..., Outcome]) -> Callable[..., Outcome]:
    return lambda *arguments: cli("train", *arguments)


def test_atlas_comes_with_its_own_text_and_the_result_loads(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    code, out, _ = cli("--out", tmp_path / "run", *SMALL, *SET)
    assert code == 0
    assert "5 layers × 32 features" in out
    assert "tl-attribution evaluate" in out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["data"] == "atlas"
    assert run["config"]["concat"] is False
    assert run["config"]["k_start"] is None
    loaded = tla.load_dictionary(tmp_path / "run")
    assert loaded.n_features == 32
    assert loaded.model_name == "atlas"
    again = cli("--out", tmp_path / "run", *SMALL, *SET)
    assert again[0] == 2
    assert "--resume continues it" in again[2]
    assert cli("--out", tmp_path / "run", *SMALL, *SET, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "feature=3"), "did you mean"),
        (("--set", "k"), "NAME=VALUE"),
        (("--set", "k_start=few"), "k_start must be of type int or None, got 'few'"),
        (("--set", "concat=perhaps"), "concat must be of type bool"),
        (("--k", "5000"), "must lie between 1 and n_features"),
        (("--activation", "gelu"), "batchtopk, topk, jumprelu, relu"),
        (("--set", "feature_input_hook=hook_mlp_inn"), "did you mean"),
        (("--callback", "tensorboard"), "no callback 'tensorboard'"),
        (("no/such/text",), "no file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    arguments: tuple[str, ...],
    words: str,
    cli: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    assert is_one_line_about(cli(*arguments, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


def test_another_model_needs_text(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tla, "load_model", lambda name: None, raising=False)
    code, _, error = cli("--model", "gpt2", "--out", tmp_path / "run")
    assert code == 2
    assert "give DATA" in error
