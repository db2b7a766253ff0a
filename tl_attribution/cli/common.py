"""What several commands do alike: their options, finding a dictionary, writing a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.dictionaries.catalog import NEURONS
from tl_attribution.errors import InputError

if TYPE_CHECKING:
    from tl_attribution.cli.terminal import Report

ATLAS = "atlas"
"""The bundled model."""

Prompt = Annotated[str, typer.Argument(help="The text to run.", show_default=False)]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="PROMPT is a user's message, in the model's chat template."),
]
System = Annotated[
    str | None, typer.Option("--system", help="With --chat: the system message before it.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="'atlas', which ships, or a name. Else the dictionary's, or Atlas.",
        show_default=False,
    ),
]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        help="A name (see list), a path, org/name on the Hub, or 'neurons': the model's own. Else "
        "Atlas's, or neurons.",
        show_default=False,
    ),
]
Reads = Annotated[
    str | None,
    typer.Option(
        "--reads", metavar="HOOK", help="Where the dictionary reads, if its files don't say."
    ),
]
Writes = Annotated[
    str | None,
    typer.Option("--writes", metavar="HOOK", help="What it reconstructs, if its files don't say."),
]
K = Annotated[
    int | None,
    typer.Option("--k", min=1, help="How many features its TopK keeps, if its files don't say."),
]
TrainedOn = Annotated[
    str | None,
    typer.Option(
        "--trained-on",
        metavar="MODEL",
        help="The dictionary's model, if its files don't say it, or call it otherwise.",
    ),
]
Prefix = Annotated[
    int | None,
    typer.Option(
        min=0, help="Leading tokens that every prompt shares. Else BOS, or the chat's opening."
    ),
]


class Chosen(NamedTuple):
    """A model and a dictionary as the options give them; None: not given."""

    model: str | None = None
    dictionary: str | None = None
    reads: str | None = None
    writes: str | None = None
    k: int | None = None
    trained_on: str | None = None

    def unsaid(self) -> dict[str, Any]:
        """What the dictionary's files may not say, as ``load_dictionary`` takes it."""
        given = {
            "feature_input_hook": self.reads,
            "feature_output_hook": self.writes,
            "k": self.k,
            "model_name": self.trained_on,
        }
        return {name: one for name, one in given.items() if one is not None}


def as_prompt(text: str, chat: bool, system: str | None) -> str | list[dict[str, str]]:
    """PROMPT as text, or as the messages of a chat. Raises InputError for a system message without
    a chat."""
    if not chat:
        if system is not None:
            raise InputError("--system is a message of a chat; give --chat with it")
        return text
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def load(chosen: Chosen, progress: Report | None = None) -> tuple[Any, tla.Dictionary]:
    """A model by name, and a dictionary by name, path or address, or the model's own neurons.

    Without a dictionary: the model's usual one, Atlas's own or its neurons. Without a model: the
    one that the dictionary was trained on. Raises InputError if nobody says which that is.
    """
    model, name = chosen.model, chosen.dictionary
    if model is None and name in (None, NEURONS):
        model = ATLAS
    if name is None:
        name = ATLAS if model == ATLAS else NEURONS
    if name == NEURONS:
        if chosen.unsaid():
            raise InputError(
                "--reads, --writes, --k and --trained-on are for dictionaries in files, not neurons"
            )
        loaded = tla.load_model(str(model))
        return loaded, tla.neurons(loaded)
    if model is not None:
        return tla.load_model(model), _dictionary(name, chosen, progress)
    dictionary = _dictionary(name, chosen, progress)
    return tla.load_model(_model_of(name, dictionary)), dictionary


def _dictionary(name: str, chosen: Chosen, progress: Report | None) -> tla.Dictionary:
    options = chosen.unsaid()
    if progress is not None:
        from tl_attribution.cli import terminal

        options["progress"] = terminal.megabytes(progress)
    return tla.load_dictionary(name, **options)


def _model_of(name: str, dictionary: tla.Dictionary) -> str:
    if not dictionary.model_name:
        raise InputError(
            f"nobody says which model {name!r} was trained on, neither its files nor the names; "
            "give --model"
        )
    return dictionary.model_name


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
