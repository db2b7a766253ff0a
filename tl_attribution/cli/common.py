"""What several commands do alike: find a dictionary, write a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError

NEURONS = "neurons"
"""The dictionary that every model has: its own MLP neurons."""


def usual(model_name: str) -> str:
    """The dictionary that is used when none is given: Atlas's own, or any model's neurons."""
    return "atlas" if model_name == "atlas" else NEURONS


def load(model_name: str, dictionary_name: str) -> tuple[Any, tla.Dictionary]:
    """A model by name, and a dictionary by name or path or the model's own neurons."""
    model = tla.load_model(model_name)
    if dictionary_name == NEURONS:
        return model, tla.neurons(model)
    return model, tla.load_dictionary(dictionary_name)


def check_destinations(files: Mapping[str, Path | None]) -> None:
    """Fail before the work rather than after it: files by the options that name them."""
    given = [path.absolute() for path in files.values() if path]
    if len(set(given)) < len(given):
        *first, last = (f"--{option}" for option in files)
        raise InputError(f"{', '.join(first)} and {last} must be different files")
    for option, path in files.items():
        if path and path.is_dir():
            raise InputError(f"--{option} {path} is a folder; give the name of a file")


def write(to: Callable[[Path], None], path: Path | None) -> None:
    """Write a file if it was asked for. Raises InputError if it cannot be written."""
    if path is None:
        return
    try:
        to(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
