"""What several commands do alike: find a dictionary, write a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError

if TYPE_CHECKING:
    from tl_attribution.cli.terminal import Report

ATLAS = "atlas"
"""The bundled model."""
NEURONS = "neurons"
"""The dictionary that every model has: its own MLP neurons."""


def usual(model_name: str) -> str:
    """The dictionary that is used when none is given: Atlas's own, or any model's neurons."""
    return ATLAS if model_name == ATLAS else NEURONS


def load(
    model_name: str | None, dictionary_name: str | None, progress: Report | None = None
) -> tuple[Any, tla.Dictionary]:
    """A model by name, and a dictionary by name, path or address, or the model's own neurons.

    Without a dictionary: the model's usual one. Without a model: the one that the dictionary was
    trained on, if that is known, else Atlas.
    """
    if model_name is None and dictionary_name in (None, NEURONS):
        model_name = ATLAS
    if dictionary_name is None:
        dictionary_name = usual(str(model_name))
    if dictionary_name == NEURONS:
        model = tla.load_model(str(model_name))
        return model, tla.neurons(model)
    if model_name is not None:
        return tla.load_model(model_name), _dictionary(dictionary_name, progress)
    dictionary = _dictionary(dictionary_name, progress)
    return tla.load_model(_model_of(dictionary_name, dictionary)), dictionary


def _dictionary(name: str, progress: Report | None) -> tla.Dictionary:
    if progress is None:
        return tla.load_dictionary(name)
    from tl_attribution.cli import terminal

    return tla.load_dictionary(name, progress=terminal.megabytes(progress))


def _model_of(name: str, dictionary: tla.Dictionary) -> str:
    from tl_attribution.dictionaries import registry

    entry = registry.find(name)
    return (entry and entry.model) or dictionary.model_name or ATLAS


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
