"""Open wandb runs: project, mode and timeouts."""

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
"""Characters that names of entities and projects must not contain."""

FINISH_TIMEOUT = 1800
"""Seconds that the end of a run waits for uploads. By default wandb 0.31 was still waiting for a
server that had gone away after 49 minutes."""


def parse_project(address: str) -> tuple[str | None, str | None]:
    """Parse ``project`` or ``entity/project`` into entity and project; None is wandb's
    default. Raises InputError for another form."""
    if not address:
        return None, None
    parts = address.split("/")
    if len(parts) > 2 or not all(parts) or set("".join(parts)) & set(RESERVED):
        raise InputError(
            f"wandb:{address} is not a project; give wandb:PROJECT or wandb:ENTITY/PROJECT, "
            f"without any of {' '.join(RESERVED)} in the names"
        )
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def open_run(
    entity: str | None, project: str | None, folder: Path | None, **options: Any
) -> wandb.Run:
    """Open a new run, beside any open one. ``folder``: of wandb's files, unless WANDB_DIR is set.
    Raises InputError if wandb cannot open the run."""
    try:
        return wandb.init(
            entity=entity,
            project=project,
            dir=None if "WANDB_DIR" in os.environ else str(folder or Path.cwd()),
            # wandb reads WANDB_MODE only once per process, too early for a notebook.
            mode=os.environ.get("WANDB_MODE") or None,  # pyright: ignore[reportArgumentType]
            reinit="create_new",
            settings=settings(),
            **options,
        )
    except wandb.Error as error:
        run = f"run {options['id']!r}" if "id" in options else "a run"
        raise InputError(
            f"wandb cannot open {run} in {project or 'its default project'!r}: {error}. Log in "
            "with `wandb login`, or keep the run on this machine with WANDB_MODE=offline"
        ) from error


def settings() -> wandb.Settings:
    """Settings of a run: no console capture, since progress bars are not a log, and a timeout
    unless WANDB_FINISH_TIMEOUT is set (wandb 0.26 has none)."""
    wandb_settings = wandb.Settings(console="off")
    if hasattr(wandb_settings, "finish_timeout") and "WANDB_FINISH_TIMEOUT" not in os.environ:
        wandb_settings.finish_timeout = FINISH_TIMEOUT
    return wandb_settings


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turn an error of wandb into a warning that it did not take ``what``: a server that is
    unreachable for a while must not end the run that is logged."""
    try:
        yield
    except Exception as error:  # wandb's errors have no common base class
        warnings.warn(
            f"wandb did not take {what}, and the run goes on without it: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
