"""The wandb plugin: runs are read back from the files that the real client wrote offline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.wandb_files import Session, sessions
from tl_attribution import plugin_loading
from tl_attribution.errors import InputError, NotFoundError
from tl_attribution.evaluation.results import (
    DENSITY_EDGES,
    AnswerMetrics,
    Distribution,
    Evaluation,
    GraphScores,
    LayerEvaluation,
    ReplacementMetrics,
)
from tl_attribution.training import callbacks
from tl_attribution.training.callbacks import Callback, RunInfo, StepRecord
from tl_attribution.training.config import TrainingConfig

MARKUP = "<img src=x onerror=alert(1)>"
SECRETS = {"WANDB_API_KEY": "a1b2c3d4" * 5, "HF_TOKEN": "hf_notforanybody0123456789"}
CONFIG = TrainingConfig(n_features=8, k=2, tokens=400, batch_size=4, buffer_size=8)
ROOT = Path(__file__).parents[2]


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        tokens=step * CONFIG.batch_size,
        loss=1 / step,
        nmse=(0.25, 0.75),
        l0=(2.0, 4.0),
        dead=(0.0, 0.5),
        parts={"error": 0.5},
        rate=1e-3,
        k=2,
        gradient_norm=1.5,
        tokens_per_second=100.0,
        seconds_left=9.0,
    )


def run_info(out: Path | None, run_id: str, resumed_at: int = 0) -> RunInfo:
    return RunInfo(CONFIG, MARKUP, 2, 16, out, run_id, resumed_at)


def folder(path: Path, text: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "tensors.txt").write_text(text)
    return path


def evaluation() -> Evaluation:
    replaced = ReplacementMetrics(0.9, 0.1, 2.0, 5.0, None)
    density = tuple(range(len(DENSITY_EDGES) - 1))
    layer = LayerEvaluation(0.2, 0.8, 3.5, 1, density, replaced)
    spread = Distribution(0.5, 0.1, 0.2, 0.5, 0.8, 0.9)
    return Evaluation(
        model=MARKUP,
        dictionary="clt",
        n_features=8,
        contexts=3,
        tokens=30,
        loss=1.9,
        layers=(layer, layer),
        replaced=replaced,
        answers={MARKUP: AnswerMetrics(4, 0.75, 4, 1.0, 0.75)},
        graphs=GraphScores(2, spread, spread, spread),
    )


DENSITY = torch.tensor([[0.0, 0.01, 0.5, 1.0], [0.0, 0.0, 1e-9, 0.1]])


def interrupted_at_30(out: Path) -> None:
    """The first session of a run, with checkpoints at 10 and 20."""
    first = callbacks.callback("wandb:team/features")
    first.on_start(run_info(out, "run1"))
    for step in (10, 20, 30):
        first.on_record(record(step))
        if step < 30:
            first.on_density(step, DENSITY)
            first.on_checkpoint(step, folder(out / f"step-{step}", f"{step}"))
    first.on_stop(KeyboardInterrupt("stopped"))


def resumed_at_20(out: Path) -> None:
    """The second session, which goes on from the checkpoint at 20 and ends at 40."""
    second = callbacks.callback("wandb:team/features")
    second.on_start(run_info(out, "run1", resumed_at=20))
    for step in (30, 40):
        second.on_record(record(step))
    second.on_evaluation(40, evaluation())
    second.on_checkpoint(40, folder(out / "step-40", "40"))
    second.on_end(folder(out / "dictionary", "weights"))


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of wandb's own, and secrets that must stay out of what it writes."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(path / name))
        for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_ID"):
            patch.delenv(name, raising=False)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        yield path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """Two sessions of one run."""
    out = tmp_path_factory.mktemp("run")
    interrupted_at_30(out)
    resumed_at_20(out)
    return out


def test_records_are_logged_over_tokens_under_their_own_steps(out: Path) -> None:
    first = sessions(out)[0]
    assert [row["_step"] for row in first.history] == [10, 20, 30]
    for row in first.history:
        expected = record(row["_step"]).flat()
        assert {name: row[name] for name in expected} == expected
    metrics = {m.glob_name or m.name: m.step_metric for m in first.of("metric")}
    assert metrics.pop("tokens") == ""
    assert metrics.pop("*") == "tokens"
    assert set(metrics.values()) <= {"tokens"}  # older clients list every metric, too


def test_a_run_knows_its_configuration_and_model_as_text(out: Path) -> None:
    first = sessions(out)[0]
    run = first.of("run")[0]
    assert (run.entity, run.project, run.run_id) == ("team", "features", "run1")
    expected = CONFIG.to_dict() | {"model": MARKUP, "n_layers": 2, "d_model": 16}
    assert {name: first.config[name] for name in expected} == expected


def test_densities_are_histograms_that_leave_out_what_was_never_active(out: Path) -> None:
    row = sessions(out)[0].history[0]
    assert (row["silent"], row["silent/layer_0"], row["silent/layer_1"]) == (0.375, 0.25, 0.5)
    histogram = row["log10_density/layer_0"]
    assert histogram["_type"] == "histogram"
    assert histogram["bins"] == list(DENSITY_EDGES)
    assert {histogram["bins"][i]: n for i, n in enumerate(histogram["values"]) if n} == {
        -2.0: 1,
        -0.5: 1,
        -0.25: 1,
    }
    rare = row["log10_density/layer_1"]["values"]
    assert (rare[0], sum(rare)) == (1, 2)


def test_a_resumed_run_goes_on_under_the_same_id(out: Path) -> None:
    first, second = sessions(out)
    assert second.of("run")[0].run_id == first.of("run")[0].run_id
    assert [row["_step"] for row in second.history] == [30, 40]
    assert [row["tokens"] for row in second.history] == [120, 160]


def test_an_interrupt_is_a_tag_and_no_failure(out: Path) -> None:
    first, second = sessions(out)
    assert first.tags == ["interrupted"]
    assert first.summary["stopped_by"] == "KeyboardInterrupt"
    assert [e.exit_code for s in (first, second) for e in s.of("exit")] == [0, 0]
    assert second.tags == ["resumed"]


def test_an_evaluation_is_numbers_tables_and_histograms(out: Path) -> None:
    row = sessions(out)[1].history[-1]
    known = {k: v for k, v in evaluation().summary.items() if v is not None}
    assert {k: row[f"evaluation/{k}"] for k in known if MARKUP not in k} == pytest.approx(
        {k: v for k, v in known.items() if MARKUP not in k}
    )
    assert "evaluation/replacement_loss_recovered" not in row
    layers = table(out, row["evaluation/layers"])
    assert [line["layer"] for line in layers] == [0, 1]
    assert layers[0]["nmse"] == 0.2
    assert layers[0]["replaced_kl"] == 0.1
    assert layers[0]["replaced_loss_recovered"] is None
    assert table(out, row["evaluation/answers"])[0]["group"] == MARKUP
    graphs = table(out, row["evaluation/graphs"])
    assert [line["score"] for line in graphs] == ["replacement", "completeness", "residual"]
    histogram = row["evaluation/log10_density/layer_1"]
    assert histogram["values"] == list(range(len(DENSITY_EDGES) - 1))


def table(out: Path, logged: dict[str, Any]) -> list[dict[str, Any]]:
    (file,) = out.glob(f"wandb/offline-run-*/files/{logged['path']}")
    table = json.loads(file.read_text())
    return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]


def test_checkpoints_and_the_dictionary_are_artifacts(out: Path) -> None:
    first, second = sessions(out)
    assert aliases(first) == {("run1-checkpoint", "checkpoint"): {"latest", "step-20"}}
    assert aliases(second) == {
        ("run1-checkpoint", "checkpoint"): {"latest", "step-40"},
        ("run1-dictionary", "dictionary"): {"latest", "step-40"},
    }


def aliases(session: Session) -> dict[tuple[str, str], set[str]]:
    logged = [a for a in session.of("artifact") if a.type != "run_table"]  # wandb's, for tables
    return {(a.name, a.type): set(a.aliases) for a in logged}


def test_an_artifact_outlives_the_checkpoint_it_was_made_of(out: Path) -> None:
    (file,) = sessions(out)[0].artifacts["run1-checkpoint"].manifest.contents
    assert file.path == "inner/tensors.txt"
    assert out not in Path(file.local_path).parents
    assert Path(file.local_path).read_text() == "20"


def test_no_secret_is_written(out: Path, home: Path) -> None:
    files = [file for root in (out, home) for file in root.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    for file in files:
        assert not [s for s in SECRETS.values() if s.encode() in file.read_bytes()], file


def test_an_error_is_a_failed_run(tmp_path: Path) -> None:
    watcher = callbacks.callback("wandb:features")
    watcher.on_start(run_info(tmp_path, "run2"))
    watcher.on_record(record(10))
    watcher.on_stop(ValueError(SECRETS["HF_TOKEN"]))
    (session,) = sessions(tmp_path)
    assert [e.exit_code for e in session.of("exit")] == [1]
    assert session.summary["stopped_by"] == "ValueError"
    assert session.tags == []
    assert not any(SECRETS["HF_TOKEN"].encode() in r.SerializeToString() for r in session.records)


def test_a_run_without_a_folder_writes_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watcher = callbacks.callback("wandb")
    watcher.on_start(run_info(None, "run3"))
    watcher.on_density(10, torch.zeros(2, 4))
    watcher.on_end(None)
    (session,) = sessions(tmp_path)
    (row,) = session.history
    assert (row["_step"], row["tokens"], row["silent"]) == (10, 40, 1.0)
    assert sum(row["log10_density/layer_0"]["values"]) == 0
    assert not session.artifacts


def test_a_run_id_that_wandb_refuses_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wandb cannot open run '\.\./x'"):
        callbacks.callback("wandb:features").on_start(run_info(tmp_path, "../x"))


def everything(watcher: Callback, out: Path) -> None:
    watcher.on_record(record(10))
    watcher.on_density(10, torch.ones(2, 4))
    watcher.on_evaluation(10, evaluation())
    watcher.on_checkpoint(10, folder(out / "step-10", "10"))


@pytest.mark.parametrize(
    "end", [lambda w: w.on_end(None), lambda w: w.on_stop(ValueError("x"))], ids=["end", "stop"]
)
def test_disabled_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, end: Callable[[Callback], None]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    staged = sorted(home.rglob("staging/*"))
    watcher = callbacks.callback("wandb:features")
    watcher.on_start(run_info(tmp_path, "run4"))
    everything(watcher, tmp_path)
    end(watcher)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10"]
    assert sorted(home.rglob("staging/*")) == staged


BAD = {
    "WANDB_MODE": "online",
    "WANDB_API_KEY": "short",
    "WANDB_BASE_URL": "http://127.0.0.1:9",
}


def test_online_with_a_bad_key_says_what_to_do(tmp_path: Path) -> None:
    code = f"""
import os
os.environ |= {BAD}
from pathlib import Path
from tests.training.test_wandb import callbacks, run_info
callbacks.callback("wandb:features").on_start(run_info(Path({str(tmp_path)!r}), "run5"))
"""
    done = python(code)
    assert "InputError: wandb cannot open run 'run5' in 'features'" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr


@pytest.mark.parametrize("where", ["a/b/c", "/b", "a/", "a/b?c", "<b>x</b>#"])
def test_a_place_that_is_no_project_is_refused_at_once(where: str) -> None:
    with pytest.raises(InputError, match=r"wandb:PROJECT or wandb:ENTITY/PROJECT"):
        callbacks.callback(f"wandb:{where}")


def test_wandb_is_imported_when_it_is_asked_for_and_not_before() -> None:
    code = """
import sys
import tl_attribution
from tl_attribution.training import callbacks
assert "wandb" not in sys.modules
callbacks.callback("wandb:features")
assert "wandb" in sys.modules
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if wandb were not installed."""
    monkeypatch.delitem(callbacks.CALLBACKS._entries, "wandb", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)


@pytest.mark.usefixtures("absent")
def test_a_library_that_is_not_installed_comes_with_its_command() -> None:
    with pytest.raises(NotFoundError, match=r"pip install 'tl-attribution\[wandb\]'"):
        callbacks.callback("wandb:features")


def test_an_unknown_callback_suggests_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_loading, "entry_points", lambda **_: [])
    monkeypatch.setitem(callbacks.CALLBACKS._entries, "wandb", callbacks.callback)
    with pytest.raises(NotFoundError, match="did you mean 'wandb'"):
        callbacks.callback("wandbb:features")


def test_hosts_are_imported_until_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [EntryPoint(name, "x:y", plugin_loading.GROUP) for name in ("json", "wandb")]
    imported: list[str] = []
    monkeypatch.setattr(plugin_loading, "entry_points", lambda **_: plugins)
    monkeypatch.setattr(plugin_loading.importlib, "import_module", imported.append)
    plugin_loading.import_hosts(until=lambda: imported)
    assert imported == ["json"]
