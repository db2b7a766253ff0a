"""``load_dictionary``: from a name or a path to a dictionary."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.formats import native
from tl_attribution.errors import FormatError, NotFoundError, nearest

FORMATS: tuple[ModuleType, ...] = (native,)
"""Readers, asked in turn whether a folder is theirs."""

NAMES: dict[str, Path] = {"atlas": Path(__file__).parents[1] / "atlas" / "dictionary"}
"""Registered names: the dictionary that ships with Atlas."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def load_dictionary(
    source: str | Path,
    *,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Open a dictionary by registered name or path: its folder, or that of the run that trained it.

    The hooks are only needed where the files don't say where features read and write; given, they
    win over the files. Weights stay in the files' dtype unless ``dtype`` is given; computations are
    in the model's. Raises NotFoundError for a source that leads nowhere (suggesting the nearest
    name), FormatError for files that are no dictionary, or corrupt.
    """
    folder = NAMES.get(str(source), Path(source))
    if not folder.exists():
        raise NotFoundError(
            f"no dictionary {str(source)!r}: it is not a registered name and no such path exists; "
            f"{nearest(str(source), [*NAMES, 'neurons'])}. For the model's own neurons use "
            "tla.neurons(model)"
        )
    if (folder / "run.json").is_file():
        folder = _of_run(folder)
    for reader in FORMATS:
        if folder.is_dir() and reader.recognise(folder):
            dictionary = reader.read(folder, device=device, dtype=dtype)
            dictionary.feature_input_hook = feature_input_hook or dictionary.feature_input_hook
            dictionary.feature_output_hook = feature_output_hook or dictionary.feature_output_hook
            return dictionary
    raise FormatError(_unknown(folder))


def _of_run(run: Path) -> Path:
    """The dictionary of a training run."""
    if not (run / "dictionary").is_dir():
        raise NotFoundError(
            f"the run in {run} has not finished, so it has no dictionary yet; go on with "
            "tl-attribution train … --resume"
        )
    return run / "dictionary"


def _unknown(folder: Path) -> str:
    files = [folder] if folder.is_file() else sorted(p for p in folder.iterdir())
    if any(p.suffix in PICKLES for p in files):
        return (
            f"{folder} holds a pickle, which can run code when it is read, so it is not opened. "
            "Dictionaries are folders with config.json and layer_0.safetensors, …"
        )
    found = ", ".join(p.name for p in files[:8]) or "nothing"
    return (
        f"{folder} is no dictionary of a known format (found: {found}); ours has config.json and "
        "layer_0.safetensors, …"
    )
