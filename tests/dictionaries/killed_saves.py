"""Saves that are killed, and savers at once: run as a program, since it forks, with what to try, an
empty folder and a format. The exit status is 0 if all that is asserted holds."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import tl_attribution as tla
from tests.random_dictionaries import transcoder
from tl_attribution.dictionaries.activations import ReLU

STEPS = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "open")
COMPANIONS = {"README.md": "a card", "evaluation.json": "{}"}


def dictionary(seed: int, form: str) -> tla.CrossLayerTranscoder:
    return transcoder(ReLU(), seed=seed, cross=form != "sae-lens")


def seed_of(folder: Path, form: str) -> int:
    """Which dictionary a folder holds; it must be one of them in every layer."""
    loaded = tla.load_dictionary(folder)
    return next(
        seed
        for seed in range(20)
        if all(
            torch.equal(a.W_enc, b.W_enc) and torch.equal(a.b_dec, b.b_dec)
            for a, b in zip(loaded.layers, dictionary(seed, form).layers, strict=True)
        )
    )


def in_a_process(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def killed_at(step: int, folder: Path, form: str) -> bool:
    """Save, and be killed just before the step-th change of the file system."""
    new, steps = dictionary(2, form), itertools.count(1)

    def act() -> None:
        def hook(event: str, arguments: tuple) -> None:
            writes = event != "open" or "w" in str(arguments[1])
            if event in STEPS and writes and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        new.save(folder, format=form)

    status = os.waitpid(in_a_process(act), 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def killed(place: Path, form: str, *, again: bool) -> None:
    seen = Counter()
    for step in itertools.count(1):
        folder = place / str(step)
        if again:
            dictionary(1, form).save(folder, format=form)
            for name, text in COMPANIONS.items():
                (folder / name).write_text(text)
        over = not killed_at(step, folder, form)
        try:
            seen[seed_of(folder, form)] += 1
        except (tla.FormatError, tla.NotFoundError) as error:
            told = ("interrupted", "no such path", "found: nothing")
            if again or not any(said in str(error) for said in told):
                raise
            seen["refused"] += 1
        dictionary(3, form).save(folder, format=form)
        assert seed_of(folder, form) == 3
        assert not list(folder.rglob(".*"))
        assert all(
            (folder / name).read_text() == text for name, text in COMPANIONS.items() if again
        )
        assert [one.name for one in place.iterdir()] == [folder.name]
        shutil.rmtree(folder)
        if over:
            break
    print(seen)
    assert seen["refused" if not again else 1] > 3
    assert seen[2] > 3


def at_once(place: Path, form: str) -> None:
    folder = place / "d"
    dictionary(0, form).save(folder, format=form)

    def save(seed: int) -> None:
        for _ in range(5):
            dictionary(seed, form).save(folder, format=form)

    def read() -> None:
        for _ in range(30):
            try:
                seed_of(folder, form)
            except tla.FormatError as error:  # between opening and reading, weights stay on disk
                if "was changed since it was opened" not in str(error):
                    raise

    running = [in_a_process(lambda seed=seed: save(seed)) for seed in range(1, 9)]
    running += [in_a_process(read) for _ in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in running] == [0] * 10
    assert seed_of(folder, form) in range(1, 9)
    assert not list(place.rglob(".*"))
    assert [one.name for one in place.iterdir()] == ["d"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, where, form = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what == "at-once":
        at_once(where, form)
    else:
        killed(where, form, again=what == "again")
