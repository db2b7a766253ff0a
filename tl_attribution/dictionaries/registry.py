"""``load_dictionary``: from a name or a path to a dictionary."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.formats import (
    circuit_tracer,
    clt_training,
    crosslayer_coding,
    crosslayer_transcoder,
    gemma_scope,
    llamascopium,
    native,
    sae_lens,
    sae_lens_clt,
)
from tl_attribution.dictionaries.formats.common import Found
from tl_attribution.dictionaries.sources import Wanted, from_plugins, known_names
from tl_attribution.dictionaries.tensor_files import listed
from tl_attribution.errors import (
    FormatError,
    InputError,
    NotFoundError,
    TlAttributionError,
    nearest,
)

FORMATS: tuple[ModuleType, ...] = (
    native,
    llamascopium,
    crosslayer_transcoder,
    crosslayer_coding,
    circuit_tracer,
    sae_lens_clt,
    sae_lens,
    clt_training,
    gemma_scope,
)
"""Readers, asked in turn whether a folder is theirs."""

NAMES: dict[str, Path] = {"atlas": Path(__file__).parents[1] / "atlas" / "dictionary"}
"""Registered names: the dictionary that ships with Atlas."""

PICKLES = {
    ".pt": "crosslayer-coding's scripts/convert_batchtopk_to_jumprelu.py, or the loader and the "
    "save_pretrained or save_to_disk of the package that wrote it, make safetensors of it",
    ".ckpt": "crosslayer-transcoder's model.save_pretrained(folder) makes safetensors of it",
    ".dcp": "llamascopium's CrossLayerTranscoder.from_pretrained(folder).save_pretrained(new "
    "folder), in one process, makes safetensors of it",
}
"""Files that can run code when they are read, and what turns them into safetensors."""
SAME = {".pth": ".pt", ".bin": ".pt", ".pkl": ".pt", ".pickle": ".pt", ".distcp": ".dcp"}


def load_dictionary(
    source: str | Path | Any,
    *,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Open a dictionary by registered name or path: its folder, or that of the run that trained it.

    Formats are recognised by the files: ours, circuit-tracer, SAELens, Gemma Scope, clt-training,
    crosslayer-coding, crosslayer-transcoder, Llamascopium. Plugins add names and objects: of
    SAELens the name of a release of transcoders, with the choice among them after a colon (see
    plugins/sae_lens/releases.py), a list of its transcoders, one a layer, or a cross-layer
    transcoder of its.

    The hooks are only needed where the files don't say where features read and write; given, they
    win over the files. Weights stay on disk and are read as they are needed, in the files' dtype
    unless ``dtype`` is given; computations are in the model's. With a ``device`` other than the CPU
    they are all read onto it.

    Raises NotFoundError for a source that leads nowhere (suggesting the nearest name), FormatError
    for files that are no dictionary, or corrupt, MismatchError for weights that don't fit each
    other, InputError for hooks that nobody says, several dictionaries in one folder, or objects
    that make no dictionary.
    """
    wanted = Wanted(feature_input_hook, feature_output_hook, device, dtype)
    if isinstance(source, str | Path) and (path := NAMES.get(str(source), Path(source))).exists():
        return _open(path, wanted)
    dictionary = _from_plugins(source, wanted)
    dictionary.feature_input_hook = feature_input_hook or dictionary.feature_input_hook
    dictionary.feature_output_hook = feature_output_hook or dictionary.feature_output_hook
    return dictionary


def _open(folder: Path, wanted: Wanted) -> Dictionary:
    if (folder / "run.json").is_file():
        folder = _of_run(folder)
    for reader in FORMATS:
        if folder.is_dir() and reader.recognise(folder):
            return _build(_read(reader, folder), f"{folder} ({reader.NAME})", wanted)
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


def _read(reader: ModuleType, folder: Path) -> Found:
    try:
        return reader.read(folder)
    except TlAttributionError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise FormatError(
            f"{folder} looks like a dictionary of {reader.NAME}, but its config or its tensors are "
            f"not built as theirs are: {error!r}"
        ) from error


def _build(found: Found, where: str, wanted: Wanted) -> Dictionary:
    hooks = {
        "feature_input_hook": wanted.feature_input_hook or found.feature_input_hook,
        "feature_output_hook": wanted.feature_output_hook or found.feature_output_hook,
    }
    _check_hooks(hooks, where)
    device, dtype = wanted.device, wanted.dtype
    stored = found.layers if dtype is None else [layer.cast(dtype) for layer in found.layers]
    elsewhere = device is not None and torch.device(device).type != "cpu"
    layers = [layer.in_memory(device) for layer in stored] if elsewhere and device else stored
    named = {name: hook for name, hook in hooks.items() if hook is not None}
    model = found.model_name if isinstance(found.model_name, str) else None
    return found.kind(layers, found.activation, **named, model_name=model)


def _check_hooks(hooks: dict[str, str | None], where: str) -> None:
    examples = {"feature_input_hook": "'mlp.hook_in'", "feature_output_hook": "'hook_mlp_out'"}
    lacking = [name for name, hook in hooks.items() if not isinstance(hook, str)]
    if lacking:
        raise InputError(
            f"{where}: the files don't say where features read and write; give load_dictionary "
            f"{' and '.join(f'{name}= (such as {examples[name]})' for name in lacking)}"
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
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    for file in files:
        suffix = SAME.get(file.suffix, file.suffix)
        if suffix in PICKLES:
            return (
                f"{folder} holds {file.name}, a pickle, which can run code when it is read, so it "
                f"is not opened: {PICKLES[suffix]}"
            )
    needs = "\n".join(f"  {reader.NAME}: {reader.NEEDS}" for reader in FORMATS)
    what = "is a file, expected a folder" if folder.is_file() else "is no dictionary"
    return (
        f"{folder} {what} of a known format (found: {listed(f.name for f in files)}). Formats "
        f"and what they need:\n{needs}"
    )
