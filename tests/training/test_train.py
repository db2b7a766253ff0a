"""A run from end to end: what it saves, that it resumes bit for bit, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tl_attribution as tla
from tests.models import FAMILIES, RAW_HOSTS, tiny
from tests.training import runs
from tl_attribution.training import checkpoint
from tl_attribution.training.callbacks import About, Callback, Record

pytestmark = pytest.mark.hosts


def train(out: Path | None = None, **changes: Any) -> tla.CrossLayerTranscoder:
    options = {
        k: changes.pop(k) for k in ("resume", "overwrite", "callbacks", "evaluate") if k in changes
    }
    dataset = changes.pop("dataset", None) or runs.texts()
    model = tiny(runs.FAMILY, runs.HOST)
    return tla.train(model, dataset, runs.config(**changes), out=out, **options)


def same(one: tla.CrossLayerTranscoder, other: tla.CrossLayerTranscoder, **close: float) -> None:
    for a, b in zip(one.layers, other.layers, strict=True):
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), **close)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("host", RAW_HOSTS)
def test_a_dictionary_of_any_model_traces_at_once(family: str, host: str, tmp_path: Path) -> None:
    model = tiny(family, host)
    tla.train(model, runs.texts(), runs.config(), out=tmp_path / "run")
    saved = tla.load_dictionary(tmp_path / "run")
    graph = tla.attribute(model, "w1 w2 w3 w4", saved)
    assert graph.nodes.is_kind("feature").any()
    assert graph.residual() < 1e-4
    assert runs.losses(tmp_path / "run")[20] < runs.losses(tmp_path / "run")[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "topk"},
        {"activation": "jumprelu", "sparsity": 1e-2},
        {"activation": "relu", "sparsity": 1e-2},
        {"kind": "transcoders", "skip": True},
        {"window": 2, "k_start": 12},
        {"normalise": False},
        {"preactivation": 1e-3},
        {"feature_input_hook": "hook_resid_mid"},
    ],
    ids=str,
)
def test_every_recipe_learns_and_what_is_saved_is_what_was_trained(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    made = train(tmp_path / "run", **changes)
    losses = runs.losses(tmp_path / "run")
    assert losses[20] < 0.9 * losses[1]
    x = torch.randn(made.n_layers, 9, made.d_model)
    saved = tla.load_dictionary(tmp_path / "run" / "dictionary")
    torch.testing.assert_close(saved.encode(x), made.encode(x))
    torch.testing.assert_close(saved.decode(saved.encode(x), x), made.decode(made.encode(x), x))


def test_batchtopk_is_saved_with_thresholds_that_keep_k_features_a_token() -> None:
    made = train(tokens=64 * 60)
    host = tla.replacement.host.host_for(tiny(runs.FAMILY, runs.HOST))
    counts = []
    for text in runs.texts(40):
        active = tla.features(host.model, text, made)
        counts.append(len(active) / (len(text.split()) * made.n_layers))
    assert sum(counts) / len(counts) == pytest.approx(4, rel=0.25)


def test_the_same_seed_gives_the_same_dictionary_and_another_one_another() -> None:
    one, again, other = train(), train(), train(seed=1)
    same(one, again, rtol=0, atol=0)
    assert not torch.equal(one.layers[0].W_enc, other.layers[0].W_enc)


# Going on


class Stop(Callback):
    """Interrupts the run at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_record(self, record: Record) -> None:
        if record.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_after_ctrl_c_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="stopped at step 9: the checkpoint of step 9"):
        train(tmp_path / "cut", callbacks=[Stop(9)])
    assert not (tmp_path / "cut" / "dictionary").exists()
    resumed = train(tmp_path / "cut", resume=True)
    assert runs.losses(tmp_path / "cut") == runs.losses(tmp_path / "whole")
    same(whole, resumed, rtol=0, atol=0)


SCRIPT = """
import sys, time
from pathlib import Path
from tests.training import runs
from tests.models import tiny
import tl_attribution as tla

class Slow(tla.Callback):
    def on_record(self, record):
        print(record.step, flush=True)
        time.sleep(0.2)

tla.train(tiny(runs.FAMILY, runs.HOST), runs.texts(), runs.config(), out=sys.argv[1],
          callbacks=[Slow()])
"""


def test_after_kill_9_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    out = tmp_path / "cut"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "8":
                process.kill()
                break
    assert checkpoint.steps(out) == [6]
    resumed = train(out, resume=True)
    assert runs.losses(out) == runs.losses(tmp_path / "whole")
    same(whole, resumed, rtol=0, atol=0)


def test_resuming_a_finished_run_gives_its_dictionary_again(tmp_path: Path) -> None:
    same(train(tmp_path / "run"), train(tmp_path / "run", resume=True), rtol=0, atol=0)


def test_resuming_a_run_that_was_never_begun_begins_it(tmp_path: Path) -> None:
    same(train(tmp_path / "run", resume=True), train(), rtol=0, atol=0)


# What goes wrong


def test_resuming_with_another_configuration_shows_the_difference(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(tla.InputError, match=r"(?s)k: saved 4, given 5.*seed: saved 0, given 2"):
        train(tmp_path / "run", resume=True, k=5, seed=2)


class Poison(Callback):
    """Breaks the weights after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def attach(self, monkeypatch: pytest.MonkeyPatch) -> Poison:
        from tl_attribution.training.run import Run

        take_step = Run._step

        def poisoned(run: Run, *arguments: Any) -> Any:
            if run.step == self.step:
                run.trainee.b_dec.data.fill_(self.value)
            return take_step(run, *arguments)

        monkeypatch.setattr(Run, "_step", poisoned)
        return self


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "the loss is nan"), (1e4, "rose")])
def test_a_loss_that_breaks_stops_the_run_and_keeps_the_last_checkpoint(
    value: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Poison(8, value).attach(patch)
        with pytest.raises(tla.TrainingError, match=f"{words}.*checkpoint of step 6 is kept"):
            train(tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run") == [6]
    same(train(tmp_path / "run", resume=True), train(), rtol=0, atol=0)


def test_a_full_disk_is_an_error_and_leaves_whole_checkpoints_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def full(tensors: Any, path: Path) -> None:
        written.append(path)
        if len(written) > 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    real = checkpoint.save_file
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(tla.TrainingError, match=r"No space left.*step 6 is kept; make room"):
            train(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-6"]
    same(train(tmp_path / "run", resume=True), train(), rtol=0, atol=0)


def test_a_broken_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    train(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-20" / "tensors.safetensors").write_bytes(b"half")
    with pytest.raises(tla.FormatError, match=r"step-20 cannot be read.*Remove it"):
        train(tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    train(tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-20" / "tensors.safetensors"
    tensors = load_file(file)
    tensors["decoder"] = tensors.pop("W_dec.0.1")
    save_file(tensors, file)
    with pytest.raises(tla.FormatError, match=r"holds no W_dec\.0\.1: another version"):
        train(tmp_path / "run", resume=True)


def test_unknown_hooks_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(tla.NotFoundError, match="hook_resid_mid"):
        train(tmp_path / "run", feature_input_hook="hook_resid_midd")
    assert not (tmp_path / "run").exists()


def test_a_shape_that_does_not_fit_is_refused_with_an_estimate() -> None:
    with pytest.raises(tla.TooLargeError, match=r"need about [\d.]+ GiB, and [\d.]+ GiB are free"):
        train(n_features=10**9)


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(tla.InputError):
        train(tmp_path / "run", dataset=["w1"], concat=True)
    assert not (tmp_path / "run").exists()


# Who watches


class Watcher(Callback):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.about: About | None = None

    def on_start(self, about: About) -> None:
        self.about = about
        self.seen.append("start")

    def on_record(self, record: Record) -> None:
        self.seen.append(f"record {record.step}")

    def on_checkpoint(self, step: int, folder: Path) -> None:
        assert (folder / "state.json").is_file()
        self.seen.append(f"checkpoint {step}")

    def on_density(self, step: int, density: torch.Tensor) -> None:
        assert density.sum(1).mean() == pytest.approx(4, rel=0.5)

    def on_evaluation(self, step: int, evaluation: object) -> None:
        self.seen.append(f"evaluation {step} {evaluation}")

    def on_end(self, folder: Path | None) -> None:
        assert folder is not None
        assert (folder / "config.json").is_file()
        self.seen.append("end")


def test_a_callback_is_told_everything_in_order(tmp_path: Path) -> None:
    watcher = Watcher()
    train(
        tmp_path / "run",
        callbacks=[watcher],
        k_start=4,
        log_every=10,
        checkpoint_every=10,
        evaluate=lambda made: made.n_features,
    )
    expected = ["start", "record 10", "checkpoint 10", "record 20", "checkpoint 20"]
    assert watcher.seen == [*expected, "evaluation 20 32", "end"]
    assert watcher.about is not None
    assert watcher.about.resumed_at == 0
    assert watcher.about.run_id == checkpoint.read_run(tmp_path / "run")["run_id"]


def test_the_log_holds_one_record_a_line_with_every_number_finite(tmp_path: Path) -> None:
    train(tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["step"] for r in records] == list(range(1, 21))
    last = records[-1]
    assert last["tokens"] == 1280
    assert last["l0"] == pytest.approx(4, rel=0.05)
    assert last["nmse"] == pytest.approx(sum(last[f"nmse/layer_{i}"] for i in range(3)) / 3)
    assert all(isinstance(v, (int, float)) for r in records for v in r.values())


def test_time_left_is_about_what_is_left(tmp_path: Path) -> None:
    started = time.monotonic()
    train(tmp_path / "run")
    taken = time.monotonic() - started
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["seconds_left"] == 0
    assert last["tokens_per_second"] > 1280 / taken


def test_a_model_without_mlps_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    lens = pytest.importorskip("transformer_lens")
    if "hooked" not in RAW_HOSTS:
        pytest.skip("this transformer-lens has no HookedTransformer")
    sizes = {"n_layers": 1, "d_model": 8, "n_ctx": 16, "d_head": 4, "n_heads": 2, "d_vocab": 9}
    config = lens.HookedTransformerConfig(**sizes, attn_only=True, seed=0)
    ids = [[1, 2, 3, 4, 5, 6, 7, 8] * 2 for _ in range(40)]
    with pytest.raises(tla.UnsupportedModelError, match="mlp"):
        tla.train(lens.HookedTransformer(config), ids, runs.config(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
