"""``load_dictionary``: from a name, a path or an address on the Hub to a dictionary."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from tl_attribution.dictionaries import remote
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.formats import native
from tl_attribution.dictionaries.names import NEURONS, Entry, names
from tl_attribution.dictionaries.remote import Progress
from tl_attribution.errors import FormatError, NotFoundError, nearest

FORMATS: tuple[ModuleType, ...] = (native,)
"""Readers, asked in turn whether a folder is theirs."""


def load_dictionary(
    source: str | Path,
    *,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Dictionary:
    """Open a dictionary by registered name (``tl-attribution list`` shows them), by path (its
    folder, or that of the run that trained it) or by address on the Hugging Face Hub,
    ``org/name[/folder][@revision]``.

    What lies on the Hub is fetched into the Hub's cache once, checked, and then read from there,
    also offline; ``progress`` is told (bytes done, in all, of what). The hooks are only needed
    where the files don't say where features read and write; given, they win over the files. Weights
    stay in the files' dtype unless ``dtype`` is given; computations are in the model's.

    Raises NotFoundError for a source that leads nowhere (suggesting the nearest name), FormatError
    for files that are no dictionary, or corrupt, HubError for what goes wrong with the Hub.
    """
    entry = find(source)
    folder = _folder(entry.source, progress)
    feature_input_hook = feature_input_hook or entry.reads
    feature_output_hook = feature_output_hook or entry.writes
    if (folder / "run.json").is_file():
        folder = of_run(folder)
    for reader in FORMATS:
        if folder.is_dir() and reader.recognise(folder):
            dictionary = reader.read(folder, device=device, dtype=dtype)
            dictionary.feature_input_hook = feature_input_hook or dictionary.feature_input_hook
            dictionary.feature_output_hook = feature_output_hook or dictionary.feature_output_hook
            return dictionary
    raise FormatError(_unknown(folder))


def find(source: str | Path) -> Entry:
    """What is known of a source: all that is registered under a name, else only where it lies."""
    text = str(source)
    if isinstance(source, Path):
        if not source.expanduser().exists():
            raise NotFoundError(f"no dictionary at {text!r}: no such path exists")
    elif not set(text) & set("/\\@"):
        registered = names()
        if text in registered:
            return registered[text]
        if not Path(text).exists():
            raise NotFoundError(
                f"no dictionary {text!r}: it is not a registered name and no such path exists; "
                f"{nearest(text, [*registered, NEURONS])}. tl-attribution list shows them all. For "
                "the model's own neurons use tla.neurons(model)"
            )
    return Entry(text)


def _folder(source: str, progress: Progress | None) -> Path:
    """Where the files lie: on this machine if there is such a path, else they are fetched."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    where = remote.address(source)
    if where is None:
        raise NotFoundError(
            f"no dictionary {source!r}: no such path exists, and it is no address on the Hub "
            "(org/name, org/name/folder or org/name@revision)"
        )
    try:
        return remote.hub().download(where, progress)
    except NotFoundError as error:
        raise NotFoundError(
            f"no dictionary {source!r}: no such path exists on this machine, and {error}"
        ) from None


def of_run(run: Path) -> Path:
    """The dictionary of a training run. Raises NotFoundError if it has none yet."""
    if not (run / "dictionary").is_dir():
        raise NotFoundError(
            f"the run in {run} has not finished, so it has no dictionary yet; go on with "
            "tl-attribution train … --resume"
        )
    return run / "dictionary"


def _unknown(folder: Path) -> str:
    files = [folder] if folder.is_file() else sorted(p for p in folder.iterdir())
    if any(p.suffix in remote.PICKLES for p in files):
        return (
            f"{folder} holds a pickle, which can run code when it is read, so it is not opened. "
            "Dictionaries are folders with config.json and layer_0.safetensors, …"
        )
    found = ", ".join(p.name for p in files[:8]) or "nothing"
    return (
        f"{folder} is no dictionary of a known format (found: {found}); ours has config.json and "
        "layer_0.safetensors, …"
    )
