"""Checkpoints: all that a run needs to go on bit for bit, written whole or not at all.

A run's folder holds ``run.json`` (what the run is), ``log.jsonl`` (a record a line),
``checkpoints/step-N`` (tensors and a small state) and, at the end, ``dictionary``. Tensors are
whole, whatever the number of processes, so that a run can go on with another number of them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_attribution.dictionaries.formats import writing
from tl_attribution.dictionaries.formats.common import peek
from tl_attribution.errors import FormatError, InputError, TrainingError
from tl_attribution.files import whole_file, write_whole

RUN, LOG, CHECKPOINTS, DICTIONARY = "run.json", "log.jsonl", "checkpoints", "dictionary"
FORMAT = "tl-attribution run"
EVALUATION = "evaluation.json"
"""Of the dictionary, where it was evaluated."""
TENSORS, STATE = "tensors.safetensors", "state.json"
KEPT = 2
"""How many of the newest checkpoints are kept."""


def prepare(out: Path, run: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a run, or check the one to go on with.

    ``overwrite`` removes what the run before wrote, and nothing else. Raises InputError if the
    folder holds another run and neither option is given, is not a run's, or, with ``resume``, was
    made with another configuration (each difference is shown).
    """
    if resume and overwrite:
        raise InputError("give resume or overwrite, not both")
    saved = read_run(out) if (out / RUN).is_file() else None
    if saved is None and out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds no run; choose an empty or a new folder")
    if saved is not None and saved.get("format") != FORMAT:
        raise InputError(
            f"{out} holds no run: its {RUN} is not a training run's, since its format is "
            f"{saved.get('format')!r}, expected {FORMAT!r}; choose an empty or a new folder"
        )
    if saved is not None and not (resume or overwrite):
        raise InputError(
            f"{out} holds a run already; --resume goes on with it, --overwrite ends it"
        )
    if saved is not None and resume:
        _same_run(out, saved, run)
        return
    if saved is not None:
        _remove(out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / RUN, (json.dumps(run, indent=2) + "\n").encode())


def read_run(out: Path) -> dict[str, Any]:
    """What ``run.json`` says. Raises FormatError if it cannot be read."""
    try:
        run = json.loads((out / RUN).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{out / RUN} cannot be read: {error}") from error
    if not isinstance(run, dict):
        raise FormatError(f"{out / RUN} holds {type(run).__name__}, expected names and values")
    return run


def _remove(out: Path) -> None:
    """Remove what a run has written, by name, so that a person's files are kept; but ``run.json``,
    which says whose folder it is and is replaced."""
    writing.remove(out / DICTIONARY)
    for folder in (out / CHECKPOINTS).glob("step-*"):
        _drop(folder)
    with suppress(OSError):  # not there, or somebody's files are in it
        (out / CHECKPOINTS).rmdir()
    if "tl_attribution_evaluation" in peek(out / EVALUATION):
        (out / EVALUATION).unlink()  # of the dictionary that is gone
    (out / LOG).unlink(missing_ok=True)


def _drop(folder: Path) -> None:
    """Remove a checkpoint, or what a killed process left of one: its state first, without which it
    is not one."""
    if folder.is_symlink():
        return
    for name in (STATE, TENSORS):
        for file in (folder / name, *folder.glob(f".{name}.*")):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or somebody's files are in it
        folder.rmdir()


def _same_run(out: Path, saved: dict[str, Any], run: dict[str, Any]) -> None:
    old, new = _flat(saved), _flat(run)
    lines = [
        f"{name}: saved {old.get(name)!r}, given {new.get(name)!r}"
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name) != new.get(name)
    ]
    if lines:
        shown = "\n  ".join(lines)
        raise InputError(
            f"the run in {out} was started differently, so it cannot be resumed:\n  {shown}\n"
            "Give the saved values, or choose another folder"
        )


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a run goes on; how it is divided over processes may change."""
    config = {k: v for k, v in run.get("config", {}).items() if k != "feature_shards"}
    return {**config, "model": run.get("model"), "data": run.get("data")}


def save(out: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint and remove the oldest. Raises TrainingError if it cannot be written, and
    leaves the last good one."""
    folder = out / CHECKPOINTS / f"step-{step}"
    ready = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        for unfinished in (out / CHECKPOINTS).glob("step-*"):
            if not (unfinished / STATE).is_file():
                _drop(unfinished)
        _drop(folder)
        with whole_file(folder / TENSORS) as temporary:
            save_file(ready, temporary)
        write_whole(folder / STATE, (json.dumps(state) + "\n").encode())
    except (OSError, SafetensorError) as error:
        _drop(folder)
        raise TrainingError(
            f"the checkpoint of step {step} could not be written to {out}: {error}. "
            f"{_kept(out)}; make room and go on with --resume"
        ) from error
    for old in steps(out)[:-KEPT]:
        _drop(out / CHECKPOINTS / f"step-{old}")
    return folder


def steps(out: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    found = (out / CHECKPOINTS).glob(f"step-*/{STATE}")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def _kept(out: Path) -> str:
    found = steps(out)
    return f"the checkpoint of step {found[-1]} is kept" if found else "there is no checkpoint yet"


def kept(out: Path | None) -> str:
    """A sentence about what a run that ends early leaves behind."""
    return "nothing was kept, since no folder was given" if out is None else _kept(out)


def load(out: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint's tensors and state, or None if there is none yet. Raises FormatError
    if it cannot be read."""
    found = steps(out)
    if not found:
        return None
    folder = out / CHECKPOINTS / f"step-{found[-1]}"
    try:
        state = json.loads((folder / STATE).read_text())
        with safe_open(folder / TENSORS, "pt", device=str(device)) as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(
            f"{folder} cannot be read: {error}. Remove it to go on from the one before"
        ) from error
    return tensors, state


def trim_log(out: Path, step: int) -> None:
    """Drop the records after ``step``, which a resumed run writes anew."""
    log = out / LOG
    if not log.is_file():
        return
    kept_lines = []
    for line in log.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept_lines.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a kill
    write_whole(log, "".join(f"{line}\n" for line in kept_lines).encode())
