"""Terminal output of every command: the console and progress bars."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from tl_attribution.progress import Progress, silent
from tl_attribution.text import printable


def console(*, stderr: bool = False) -> Console:
    """A console that prints text literally: ``[red]`` and ``:smile:`` are not markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_heading(console: Console, text: str) -> None:
    """Print a heading after an empty line."""
    console.print(Text(f"\n{printable(text)}", "bold"), soft_wrap=True)


def print_files(console: Console, files: Sequence[object]) -> None:
    """Print the files that were written (paths or addresses), and an empty line."""
    for file in files:
        console.print(f"\nwrote {printable(str(file))}", soft_wrap=True, end="")
    console.print()


def hide_hub_bars_in_pipes() -> None:
    """Show huggingface_hub's own progress bars on terminals only. To be called before it is
    imported."""
    if not console(stderr=True).is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def in_megabytes(progress: Progress) -> Progress:
    """Convert a progress callback that takes megabytes to one that takes bytes."""
    return lambda done, total, what: progress(done // 10**6, total // 10**6, f"{what}, MB")


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress callback: a transient bar on stderr if that is a terminal, else silent."""
    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield silent
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    with ProgressBar(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total or None, description=what
        )
