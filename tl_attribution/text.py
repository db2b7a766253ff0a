"""Text from prompts, files and people, made safe to show."""

from __future__ import annotations

JOINERS = "\u200c\u200d"
"""Invisible, but part of how Persian, Indic scripts and emoji are written; shown as they are."""


def printable(text: str) -> str:
    """``text`` with everything invisible or with a meaning to terminals and text direction escaped.

    >>> printable("a\\n\\x1b[31m")
    'a\\\\n\\\\x1b[31m'
    """
    return "".join(
        c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text
    )


def quote(text: str) -> str:
    """``text`` in quotes, so that its spaces are seen.

    >>> quote(" Dallas")
    '" Dallas"'
    """
    return f'"{printable(text)}"'
