"""Two processes do what one does: data parallel, features divided, and after a rank has died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tl_attribution as tla
from tests.training import tiny_runs

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

SCRIPT = """
import json, os, sys
from tests.training import tiny_runs
import tl_attribution as tla

class Die(tla.Callback):
    def on_record(self, record):
        if record.step == 9:
            os._exit(3)

out, changes, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
callbacks = [Die()] if options.pop("die", False) else []
tla.train(tiny_runs.model(), tiny_runs.texts(), tiny_runs.config(**changes), out=out,
          callbacks=callbacks, **options)
"""


def launch(out: Path, processes: int, changes: dict[str, Any], **options: Any) -> Any:
    import json

    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(script), str(out)]
    return subprocess.run(
        [*command, json.dumps(changes), json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def alone(out: Path, **changes: Any) -> tla.Dictionary:
    return tla.train(
        tiny_runs.model(),
        tiny_runs.texts(),
        tiny_runs.config(**changes),
        out=out,
    )


def same(one: Path, other: Path) -> None:
    a, b = tiny_runs.losses(one), tiny_runs.losses(other)
    assert a.keys() == b.keys()
    for step, loss in a.items():
        assert b[step] == pytest.approx(loss, rel=1e-5), step
    first, second = tla.load_dictionary(one), tla.load_dictionary(other)
    assert isinstance(first, tla.CrossLayerTranscoder)
    assert isinstance(second, tla.CrossLayerTranscoder)
    for x, y in zip(first.layers, second.layers, strict=True):
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            first_weights, second_weights = getattr(x, name), getattr(y, name)
            difference = (first_weights - second_weights).abs().max()
            assert difference <= 1e-5 * first_weights.abs().max(), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"feature_shards": 2},
        {"activation": "topk", "feature_shards": 2, "skip": True},
        {"activation": "jumprelu", "feature_shards": 2, "preactivation_coefficient": 1e-3},
    ],
    ids=["data parallel", "features divided", "topk divided", "jumprelu divided"],
)
def test_two_processes_train_the_dictionary_that_one_does(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    done = launch(tmp_path / "two", 2, changes)
    assert done.returncode == 0, done.stderr
    alone(tmp_path / "one", **{**changes, "feature_shards": 1})
    same(tmp_path / "one", tmp_path / "two")


def test_a_rank_that_dies_ends_the_job_with_the_cause_and_one_process_goes_on(
    tmp_path: Path,
) -> None:
    done = launch(tmp_path / "cut", 2, {}, die=True)
    assert done.returncode != 0
    assert "exitcode" in done.stderr
    assert "3" in done.stderr
    assert not (tmp_path / "cut" / "dictionary").exists()
    tla.train(
        tiny_runs.model(),
        tiny_runs.texts(),
        tiny_runs.config(),
        out=tmp_path / "cut",
        resume=True,
    )
    alone(tmp_path / "one")
    same(tmp_path / "one", tmp_path / "cut")


def test_features_that_cannot_be_divided_over_the_processes_are_refused() -> None:
    with pytest.raises(tla.InputError, match="torchrun --nproc-per-node 2"):
        tla.train(
            tiny_runs.model(),
            tiny_runs.texts(),
            tiny_runs.config(feature_shards=2),
        )
