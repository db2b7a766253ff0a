"""What several commands do alike: find a dictionary, write a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError

NEURONS = "neurons"
"""The dictionary that every model has: its own MLP neurons."""


def usual(model_name: str) -> str:
    """The dictionary that is used when none is given: Atlas's own, or any model's neurons."""
    return "atlas" if model_name == "atlas" else NEURONS


def dictionary(model: Any, name: str) -> tla.Dictionary:
    """A dictionary by name or path, or the model's own neurons."""
    return tla.neurons(model) if name == NEURONS else tla.load_dictionary(name)


def write(to: Callable[[Path], None], path: Path | None) -> None:
    """Write a file if it was asked for. Raises InputError if it cannot be written."""
    if path is None:
        return
    try:
        to(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
