"""How long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""(done, total, what): called as the work goes on. The total is 0 where it is not known."""


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""
    del done, total, what
