"""A run's folder: whose it is, and what starting anew and resuming leave in it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import tiny
from tests.training import runs
from tl_attribution.training import checkpoint

pytestmark = pytest.mark.hosts


def train(out: Path, *, resume: bool = False, overwrite: bool = False, **changes: Any) -> None:
    model = tiny(runs.FAMILY, runs.HOST)
    options = {"out": out, "resume": resume, "overwrite": overwrite}
    tla.train(model, runs.texts(), runs.config(**changes), **options)


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = runs.losses(tmp_path / "run")
    with pytest.raises(tla.InputError, match="--resume goes on with it, --overwrite ends it"):
        train(tmp_path / "run")
    assert runs.losses(tmp_path / "run") == before
    train(tmp_path / "run", overwrite=True, tokens=640)
    assert max(runs.losses(tmp_path / "run")) == 10


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(tla.InputError, match="holds no run"):
            train(tmp_path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "said", ['{"name": "a race"}', "[]", '{"format": "tl-attribution dictionary"}']
)
def test_a_folder_with_another_programs_run_json_is_left_alone(said: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "run.json").write_text(said)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises((tla.InputError, tla.FormatError), match=r"run\.json"):
            train(tmp_path, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "thesis.tex"]


def test_overwriting_a_run_removes_only_what_it_wrote(tmp_path: Path) -> None:
    train(tmp_path / "run")
    kept = ("thesis.tex", "dictionary/README.md", "checkpoints/notes", "checkpoints/step-18/notes")
    for name in kept:
        (tmp_path / "run" / name).write_text("mine")
    (tmp_path / "run" / "evaluation.json").write_text('{"tl_attribution_evaluation": 1}')
    train(tmp_path / "run", overwrite=True, tokens=640)
    assert [(tmp_path / "run" / name).read_text() for name in kept] == ["mine"] * len(kept)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert checkpoint.steps(tmp_path / "run") == [6, 10]
    assert max(runs.losses(tmp_path / "run")) == 10


def test_resuming_a_finished_run_keeps_its_dictionarys_card(tmp_path: Path) -> None:
    train(tmp_path / "run")
    for name in ("README.md", "evaluation.json"):
        (tmp_path / "run" / "dictionary" / name).write_text("written since")
    train(tmp_path / "run", resume=True)
    for name in ("README.md", "evaluation.json"):
        assert (tmp_path / "run" / "dictionary" / name).read_text() == "written since"


def test_what_a_killed_checkpoint_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = """
import os, signal, sys, torch
from pathlib import Path
from tl_attribution.training import checkpoint
checkpoint.save(Path(sys.argv[1]), 3, {"x": torch.ones(2)}, {})
def half(tensors, path):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = half
checkpoint.save(Path(sys.argv[1]), 6, {"x": torch.ones(2)}, {})
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.steps(tmp_path) == [3]
    checkpoint.save(tmp_path, 9, {"x": torch.ones(2)}, {})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-9"]
