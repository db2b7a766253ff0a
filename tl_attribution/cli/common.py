"""Shared by the commands: common options, loading a model and a dictionary, writing files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.dictionaries.catalog import NEURONS
from tl_attribution.errors import InputError

if TYPE_CHECKING:
    from tl_attribution.progress import Progress

ATLAS = "atlas"
"""Name of the bundled model and of its dictionary."""

Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The text to run.", show_default=False)
]
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
        help="'atlas' (bundled), or a name. Default: the dictionary's model, or atlas.",
        show_default=False,
    ),
]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        help="A name (see list), a path, org/name on the Hub, or 'neurons' (the model's MLP "
        "neurons). Default: atlas for atlas, else neurons.",
        show_default=False,
    ),
]
Reads = Annotated[
    str | None,
    typer.Option(
        "--reads", metavar="HOOK", help="Hook the dictionary reads, if its files do not name it."
    ),
]
Writes = Annotated[
    str | None,
    typer.Option(
        "--writes", metavar="HOOK", help="Hook it reconstructs, if its files do not name it."
    ),
]
K = Annotated[
    int | None,
    typer.Option("--k", min=1, help="Features that its TopK keeps, if its files do not say."),
]
TrainedOn = Annotated[
    str | None,
    typer.Option(
        "--trained-on",
        metavar="MODEL",
        help="The model it was trained on, if its files name none or name it differently.",
    ),
]
Prefix = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Leading tokens that every prompt shares. Default: BOS, or the chat's opening.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all numbers as JSON.")]


def choice_option(literal: Any, *names: str, help: str) -> Any:
    """An option that takes the values of a ``Literal`` type (typer itself takes one from 0.19)."""
    values: tuple[str, ...] = get_args(literal)

    def parse(text: str) -> str:
        if text not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, values))}")
        return text

    return typer.Option(*names, parser=parse, metavar=f"[{'|'.join(values)}]", help=help)


class ModelOptions(NamedTuple):
    """The options that choose a model and a dictionary; None for an option without a value."""

    model: str | None = None
    dictionary: str | None = None
    reads: str | None = None
    writes: str | None = None
    k: int | None = None
    trained_on: str | None = None

    def overrides(self) -> dict[str, Any]:
        """The arguments of ``load_dictionary`` that complete or replace the files' metadata."""
        options = {
            "feature_input_hook": self.reads,
            "feature_output_hook": self.writes,
            "k": self.k,
            "model_name": self.trained_on,
        }
        return {name: value for name, value in options.items() if value is not None}


def as_prompt(text: str, chat: bool, system: str | None) -> str | list[dict[str, str]]:
    """PROMPT as text, or as the messages of a chat. Raises InputError for a system message without
    a chat."""
    if not chat:
        if system is not None:
            raise InputError("--system is a message of a chat; give --chat with it")
        return text
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def load(options: ModelOptions, progress: Progress | None = None) -> tuple[Any, tla.Dictionary]:
    """Load a model by name and a dictionary by name, path or address, or the model's neurons.

    The default dictionary is Atlas's for Atlas, and the neurons for other models; the default model
    is the one that the dictionary was trained on. Raises InputError if that model is unknown.
    """
    model, name = options.model, options.dictionary
    if model is None and name in (None, NEURONS):
        model = ATLAS
    if name is None:
        name = ATLAS if model == ATLAS else NEURONS
    if name == NEURONS:
        if options.overrides():
            raise InputError(
                "--reads, --writes, --k and --trained-on are for dictionaries in files, not neurons"
            )
        loaded = tla.load_model(str(model))
        return loaded, tla.neurons(loaded)
    if model is not None:
        return tla.load_model(model), _load_dictionary(name, options, progress)
    dictionary = _load_dictionary(name, options, progress)
    return tla.load_model(_model_name(name, dictionary)), dictionary


def _load_dictionary(name: str, options: ModelOptions, progress: Progress | None) -> tla.Dictionary:
    arguments = options.overrides()
    if progress is not None:
        from tl_attribution.cli import terminal

        arguments["progress"] = terminal.in_megabytes(progress)
    return tla.load_dictionary(name, **arguments)


def _model_name(name: str, dictionary: tla.Dictionary) -> str:
    if not dictionary.model_name:
        raise InputError(
            f"the model that {name!r} was trained on is unknown: neither its files nor the list of "
            "dictionaries name it; give --model"
        )
    return dictionary.model_name


def check_destinations(files: Mapping[str, Path | None]) -> None:
    """Check the paths of output files, by the names of their options, before the computation.

    Raises InputError if two of them are the same file, or one is a folder.
    """
    paths = [path.absolute() for path in files.values() if path]
    if len(set(paths)) < len(paths):
        *first, last = (f"--{option}" for option in files)
        raise InputError(f"{', '.join(first)} and {last} must be different files")
    for option, path in files.items():
        if path and path.is_dir():
            raise InputError(f"--{option} {path} is a folder; give the name of a file")


def write(save: Callable[[Path], None], path: Path | None) -> None:
    """Call ``save`` with a path, if there is one. Raises InputError if it cannot be written."""
    if path is None:
        return
    try:
        save(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
