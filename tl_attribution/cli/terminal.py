"""What every command shows alike: the console, and progress that stays out of the way of pipes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

Report = Callable[[int, int, str], None]
"""(done, in all, of what); in all is 0 where it is not known."""


def console(*, stderr: bool = False) -> Console:
    """A console that shows prompts and labels as they are: ``[red]`` and ``:smile:`` are text."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def no_bars_in_pipes() -> None:
    """Let the Hub's own bars, which tell bytes, be seen on a terminal only. Asked before it is
    imported."""
    if not console(stderr=True).is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def megabytes(report: Report) -> Report:
    """A report in bytes as one in megabytes."""
    return lambda done, total, what: report(done // 10**6, total // 10**6, f"{what}, MB")


@contextmanager
def progress() -> Iterator[Report]:
    """A function that reports progress on stderr: a bar that vanishes at the end on a terminal,
    nothing elsewhere."""
    shown = console(stderr=True)
    if not shown.is_terminal:
        yield lambda done, total, what: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total or None, description=what
        )
