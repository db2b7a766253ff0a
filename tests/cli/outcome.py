"""Outcome of a command, and the form of its error messages."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """Exit code and printed text of a command."""

    code: int
    out: str
    err: str


def is_one_line_about(outcome: Outcome, message: str) -> bool:
    assert outcome.code == 2
    assert outcome.err.startswith("tl-attribution: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    return True
