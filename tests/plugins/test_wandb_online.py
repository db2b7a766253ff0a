"""Training runs logged online: the real client talks to a server on loopback."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import wandb

from tests.plugins.wandb_environment import files_containing, isolate
from tests.plugins.wandb_server import serve
from tests.plugins.wandb_state import KEY, Run, State
from tests.training.test_wandb import (
    CONFIG,
    MARKUP,
    folder,
    interrupted_at_30,
    record,
    resumed_at_20,
    run_info,
)
from tests.training.wandb_files import read
from tl_attribution.errors import InputError
from tl_attribution.evaluation.results import DENSITY_EDGES
from tl_attribution.plugins.wandb import runs
from tl_attribution.training import callbacks
from tl_attribution.training.callbacks import Callback

BOUNDED = "finish_timeout" in wandb.Settings.model_fields
"""Older clients give up only when their retries do, after a quarter of an hour."""


class Logged(NamedTuple):
    """A run of two sessions, as it arrived."""

    server: State
    run: Run
    out: Path
    home: Path
    interrupted: list[str]
    """Its tags between the sessions."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    out, home = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("home")
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        isolate(patch, home, server.url)
        interrupted_at_30(out)
        run = server.runs["run1"]
        tags = [*run.tags]
        run.tags.append("a person's")
        resumed_at_20(out)
        yield Logged(server, run, out, home, tags)
        wandb.teardown()


def test_every_record_arrives_once_though_the_second_session_repeats_one(logged: Logged) -> None:
    assert [row["_step"] for row in logged.run.history] == [10, 20, 30, 40]
    for row in logged.run.history:
        expected = record(row["_step"]).flat()
        assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_the_summary_is_the_last_row(logged: Logged) -> None:
    expected = record(40).flat()
    assert {name: logged.run.summary[name] for name in expected} == pytest.approx(expected)


def test_the_configuration_arrives(logged: Logged) -> None:
    expected = CONFIG.to_dict() | {"model": MARKUP, "n_layers": 2, "d_model": 16}
    assert {name: logged.run.config[name]["value"] for name in expected} == expected
    assert logged.run.project == "features"


def test_histograms_and_tables_arrive(logged: Logged) -> None:
    first, last = logged.run.history[0], logged.run.history[-1]
    assert first["log10_density/layer_0"]["bins"] == list(DENSITY_EDGES)
    assert sum(first["log10_density/layer_0"]["values"]) == 3
    assert last["evaluation/nmse"] == pytest.approx(0.2)
    layers = logged.server.table(logged.run, last["evaluation/layers"])
    assert [line["layer"] for line in layers] == [0, 1]
    answers = logged.server.table(logged.run, last["evaluation/answers"])
    assert answers[0]["group"] == MARKUP


def test_checkpoints_and_the_dictionary_are_artifacts_with_their_files(logged: Logged) -> None:
    server = logged.server
    checkpoints, (dictionary,) = server.of_type("checkpoint"), server.of_type("dictionary")
    assert [(a.name, a.metadata["step"]) for a in checkpoints] == [
        ("run1-checkpoint", 10),
        ("run1-checkpoint", 20),
        ("run1-checkpoint", 40),
    ]
    assert set(checkpoints[0].aliases) == {"step-10"}
    assert set(checkpoints[-1].aliases) == {"step-40", "latest"}
    assert server.files(checkpoints[0]) == {"inner/tensors.txt": b"10"}
    assert server.files(checkpoints[-1]) == {"inner/tensors.txt": b"40"}
    assert (dictionary.name, dictionary.metadata) == ("run1-dictionary", {"step": 40})
    assert server.files(dictionary) == {"inner/tensors.txt": b"weights"}


def test_an_interrupt_is_forgotten_when_the_run_goes_on(logged: Logged) -> None:
    assert logged.interrupted == ["interrupted"]
    assert logged.run.tags == ["a person's", "resumed"]
    assert "stopped_by" not in logged.run.summary
    assert logged.run.exit_codes == [0, 0]


def test_the_key_is_told_to_the_server_and_to_nobody_else(logged: Logged) -> None:
    assert not files_containing(KEY, logged.out)
    assert not files_containing(KEY, logged.home)
    sent = [*logged.server.storage.values(), repr(logged.run).encode()]
    assert not [content for content in sent if KEY.encode() in content]


@pytest.fixture
def server() -> Iterator[State]:
    with serve() as state:
        yield state
        wandb.teardown()


@pytest.fixture
def watcher(server: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callback:
    """A callback of a client that loses patience soon."""
    isolate(monkeypatch, tmp_path / "home", server.url, INIT_TIMEOUT="2", HTTP_TIMEOUT="2")
    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 2)  # read when wandb is imported
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    return callbacks.callback("wandb:team/features")


def on_disk(out: Path) -> list[int]:
    """The steps in the client's own file, which ``wandb sync`` sends."""
    (file,) = out.glob("wandb/run-*/*.wandb")
    return [row["_step"] for row in read(file).history]


@pytest.mark.parametrize("status", [401, 500, None], ids=["401", "500", "away"])
def test_a_server_that_refuses_is_an_error_before_the_first_step(
    server: State,
    watcher: Callback,
    status: int | None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.status = status
    if status is None:
        server.go_away()
    with pytest.raises(InputError, match=r"wandb cannot open run 'run2' in 'features'") as raised:
        watcher.on_start(run_info(tmp_path, "run2"))
    assert "wandb login" in str(raised.value)
    assert "WANDB_MODE=offline" in str(raised.value)
    printed = capfd.readouterr()
    assert KEY not in str(raised.value) + printed.out + printed.err
    assert not files_containing(KEY, tmp_path)


def test_another_entity_is_refused(watcher: Callback, tmp_path: Path) -> None:
    stranger = callbacks.callback("wandb:strangers/features")
    with pytest.raises(InputError, match="permission denied"):
        stranger.on_start(run_info(tmp_path, "run2"))


def test_a_server_that_is_away_for_a_while_misses_nothing(
    server: State, watcher: Callback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "300")
    watcher.on_start(run_info(tmp_path, "run3"))
    watcher.on_record(record(10))
    server.refusals = 3
    for step in (20, 30):
        watcher.on_record(record(step))
    watcher.on_end(None)
    assert server.refusals == 0
    assert [row["_step"] for row in server.runs["run3"].history] == [10, 20, 30]


@pytest.mark.skipif(not BOUNDED, reason="this wandb waits until its retries end")
@pytest.mark.parametrize("status", [401, 500, None], ids=["401", "500", "away"])
def test_a_server_that_goes_away_costs_warnings_and_not_the_training(
    server: State,
    watcher: Callback,
    status: int | None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    watcher.on_start(run_info(tmp_path, "run4"))
    watcher.on_record(record(10))
    server.status = status
    if status is None:
        server.go_away()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        watcher.on_checkpoint(20, folder(tmp_path / "step-20", "20"))
        watcher.on_record(record(20))
        watcher.on_end(folder(tmp_path / "dictionary", "weights"))
    messages = "".join(str(warning.message) for warning in warned)
    for what in ("checkpoint", "dictionary"):
        assert f"wandb did not take the {what} in {tmp_path}" in messages
    for _ in range(120):  # the client's own process closes the file some time after the end
        if on_disk(tmp_path) == [10, 20]:
            break
        time.sleep(0.5)
    assert on_disk(tmp_path) == [10, 20]
    assert (tmp_path / "dictionary").is_dir()
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err + messages
    assert not files_containing(KEY, tmp_path)


@pytest.mark.skipif(not BOUNDED, reason="this wandb waits until its retries end")
def test_the_end_of_a_run_waits_for_so_long_unless_a_person_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT", raising=False)
    assert runs.settings().finish_timeout == runs.FINISH_TIMEOUT
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    assert not runs.settings().finish_timeout
