"""Docstrings on their way to the reference: references like ``:func:`name``` become code, and
examples that begin with ``>>>`` become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|attr|mod|data|exc):`~?([^`]+)`")
EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^\S.*\n?)*", re.MULTILINE)


def _name(match: re.Match[str]) -> str:
    module, _, name = match[1].rpartition(".")
    return f"`tla.{name}`" if module == "tl_attribution" else f"`{name}`"


def as_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> as_markdown("See :func:`tl_attribution.attribute`.")
    'See `tla.attribute`.'
    """
    text = EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", text)
    return ROLE.sub(_name, text)


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
