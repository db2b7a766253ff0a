"""Opening a wandb run: in which project, in which mode, and how long wandb is waited for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from tl_attribution.errors import InputError

RESERVED = "/\\#?%:"
"""Characters that wandb allows in no name of an entity or project."""

FINISH = 1800
"""Seconds that the end of a run waits for what is still to be uploaded. By itself wandb 0.31 was
still waiting for a server that had gone away after 49 minutes."""


def address(where: str) -> tuple[str | None, str | None]:
    """Entity and project of ``project`` or ``entity/project``; None where wandb's settings decide.
    Raises InputError if it is neither."""
    if not where:
        return None, None
    parts = where.split("/")
    if len(parts) > 2 or not all(parts) or set("".join(parts)) & set(RESERVED):
        raise InputError(
            f"wandb:{where} names no project; give wandb:PROJECT or wandb:ENTITY/PROJECT, without "
            f"any of {' '.join(RESERVED)} in the names"
        )
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def open_run(
    entity: str | None, project: str | None, folder: Path | None, **given: Any
) -> wandb.Run:
    """A run of its own: one that the caller has open stays as it is. ``folder`` is where wandb's
    own files go unless WANDB_DIR says otherwise. Raises InputError if wandb cannot open it."""
    try:
        return wandb.init(
            entity=entity,
            project=project,
            dir=None if "WANDB_DIR" in os.environ else str(folder or Path.cwd()),
            # wandb itself reads WANDB_MODE once a process, too early for a notebook.
            mode=os.environ.get("WANDB_MODE") or None,  # pyright: ignore[reportArgumentType]
            reinit="create_new",
            settings=settings(),
            **given,
        )
    except wandb.Error as error:
        run = f"run {given['id']!r}" if "id" in given else "a run"
        raise InputError(
            f"wandb cannot open {run} in {project or 'its default project'!r}: {error}. Log in "
            "with `wandb login`, or keep the run on this machine with WANDB_MODE=offline"
        ) from error


def settings() -> wandb.Settings:
    """No console, since a progress bar is no log, and an end to waiting where wandb knows one (0.26
    does not) and WANDB_FINISH_TIMEOUT says no other."""
    chosen = wandb.Settings(console="off")
    if hasattr(chosen, "finish_timeout") and "WANDB_FINISH_TIMEOUT" not in os.environ:
        chosen.finish_timeout = FINISH
    return chosen


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """What wandb cannot take in the middle of a run is a warning: a server that is away for a
    while must not end the work that is being watched."""
    try:
        yield
    except Exception as error:  # wandb raises of many families, some without a common base
        warnings.warn(
            f"wandb did not take {what}, and the run goes on without it: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
