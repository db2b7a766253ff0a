"""``load_dictionary``: from a name or a path to a dictionary."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.formats import native, sae_lens_clt
from tl_attribution.dictionaries.sources import Wanted, from_plugins, known_names
from tl_attribution.errors import FormatError, InputError, NotFoundError, nearest

FORMATS: tuple[ModuleType, ...] = (native, sae_lens_clt)
"""Readers, asked in turn whether a folder is theirs."""

NAMES: dict[str, Path] = {"atlas": Path(__file__).parents[1] / "atlas" / "dictionary"}
"""Registered names: the dictionary that ships with Atlas."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def load_dictionary(
    source: str | Path | Any,
    *,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Open a dictionary by registered name or path: its folder, or that of the run that trained it.

    Plugins add names and objects. SAELens: the name of a release of transcoders, with the choice
    among them after a colon (see plugins/sae_lens/releases.py), a list of its transcoders, one a
    layer, or a cross-layer transcoder of its.

    The hooks are only needed where the files don't say where features read and write; given, they
    win over the files. Weights stay in the files' dtype unless ``dtype`` is given; computations are
    in the model's. Raises NotFoundError for a source that leads nowhere (suggesting the nearest
    name), FormatError for files that are no dictionary, or corrupt, InputError and MismatchError
    for objects that make no dictionary.
    """
    if isinstance(source, str | Path) and (path := NAMES.get(str(source), Path(source))).exists():
        dictionary = _open(path, device, dtype)
    else:
        wanted = Wanted(feature_input_hook, feature_output_hook, device, dtype)
        dictionary = _from_plugins(source, wanted)
    dictionary.feature_input_hook = feature_input_hook or dictionary.feature_input_hook
    dictionary.feature_output_hook = feature_output_hook or dictionary.feature_output_hook
    return dictionary


def _open(folder: Path, device: str | None, dtype: torch.dtype | None) -> Dictionary:
    if (folder / "run.json").is_file():
        folder = _of_run(folder)
    for reader in FORMATS:
        if folder.is_dir() and reader.recognise(folder):
            return reader.read(folder, device=device, dtype=dtype)
    raise FormatError(_unknown(folder))


def _from_plugins(source: Any, wanted: Wanted) -> Dictionary:
    dictionary = from_plugins(source, wanted)
    if dictionary is not None:
        return dictionary
    if not isinstance(source, str | Path):
        raise InputError(
            f"a {type(source).__name__} is no source of a dictionary; expected a name, a path, or "
            "transcoders of SAELens, one a layer (with sae-lens installed)"
        )
    raise NotFoundError(
        f"no dictionary {str(source)!r}: it is not a registered name and no such path exists; "
        f"{nearest(str(source), [*NAMES, 'neurons', *known_names()])}. For the model's own neurons "
        "use tla.neurons(model)"
    )


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
