"""What a command printed, and what is expected of its errors."""

from __future__ import annotations

from typing import NamedTuple


class Ran(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def is_one_line_about(ran: Ran, said: str) -> bool:
    assert ran.code == 2
    assert ran.err.startswith("tl-attribution: ")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    return True
