"""Escape text from prompts, files and people so that it is safe to print."""

from __future__ import annotations

JOINERS = "\u200c\u200d"
"""Invisible, but needed to write Persian, Indic scripts and emoji; not escaped."""


def printable(text: str) -> str:
    """Escape everything that is invisible or controls terminals or text direction.

    >>> printable("a\\n\\x1b[31m")
    'a\\\\n\\\\x1b[31m'
    """
    return "".join(
        c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text
    )


def quote(text: str) -> str:
    """Put ``text`` in quotes, so that its spaces are visible.

    >>> quote(" Dallas")
    '" Dallas"'
    """
    return f'"{printable(text)}"'
