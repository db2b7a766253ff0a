"""Load a dictionary by name, path or address on the Hub, or from the objects of a plugin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tl_attribution import devices, plugin_loading
from tl_attribution.dictionaries import hub
from tl_attribution.dictionaries.activations import Activation, TopK
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.catalog import NEURONS, CatalogEntry, names
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats import pickles, readers, writing
from tl_attribution.dictionaries.formats.common import DictionaryFiles
from tl_attribution.dictionaries.hub import Progress
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.dictionaries.plugin_sources import LoadOptions, from_plugins, known_names
from tl_attribution.dictionaries.run_folder import dictionary_of, is_run
from tl_attribution.dictionaries.tensor_files import listed
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.weights import TranscoderKind
from tl_attribution.errors import (
    FormatError,
    InputError,
    NotFoundError,
    nearest,
)

CLASSES: dict[TranscoderKind, type[Transcoder]] = {
    "cross-layer transcoder": CrossLayerTranscoder,
    "transcoders": TranscoderSet,
}


def load_dictionary(
    source: str | Path | Any,
    *,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    model_name: str | None = None,
    k: int | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Dictionary:
    """Load a dictionary by registered name (``tl-attribution list`` shows them), by path (its
    folder, or that of the run that trained it) or by address on the Hugging Face Hub,
    ``org/name[/folder][@revision]``. A dictionary on the Hub is downloaded into the Hub's cache
    once, checked, and then read from there, also offline; ``progress`` is called with (bytes done,
    bytes in all, file name).

    Formats are recognized by the files: ours, circuit-tracer, SAELens, Gemma Scope, clt-training,
    crosslayer-coding, crosslayer-transcoder, Llamascopium. Plugins add names and objects: for
    SAELens the name of a release of transcoders, with the choice among them after a colon (see
    plugins/sae_lens/releases.py), a list of its transcoders, one per layer, or its cross-layer
    transcoder.

    The hooks, the model and TopK's ``k`` are only needed where neither the files nor the registered
    entry have them; as arguments, they take precedence. Weights stay on disk and are read as they
    are needed, in the files' dtype unless ``dtype`` is passed; computations are in the model's
    dtype and on its device, wherever the weights are. With a ``device`` other than the CPU all
    weights are read onto it.

    Raises NotFoundError for an unknown source (suggesting the nearest name), FormatError for files
    that are not a dictionary or are corrupt, MismatchError for weights that don't fit each other,
    InputError for unknown hooks or an unknown k, a device that does not exist, several dictionaries
    in one folder, or objects that are not the layers of a dictionary, HubError for failures of the
    Hub.
    """
    if device is not None:
        devices.check(device)
    options = LoadOptions(feature_input_hook, feature_output_hook, device, dtype, k)
    entry = find(source) if isinstance(source, str | Path) else None
    if entry is not None:
        options = options._replace(
            feature_input_hook=feature_input_hook or entry.reads,
            feature_output_hook=feature_output_hook or entry.writes,
            k=entry.k if k is None else k,
        )
    if entry is None or entry.host is not None:
        dictionary = _from_plugins(source if entry is None else _name_of_plugin(entry), options)
    else:
        dictionary = _open(_folder(entry.source, progress), options)
    # Some files have a name for their model that nothing else knows.
    registered = entry.model if entry else None
    dictionary.model_name = model_name or registered or dictionary.model_name
    return dictionary


def find(source: str | Path) -> CatalogEntry | None:
    """Find the entry of a source: a registered one for a name or an address on the Hub; for other
    paths and addresses one with only a ``source``; None for a name that only a plugin may know."""
    text = str(source)
    choice = "" if "://" in text else text.partition(":")[2]
    if isinstance(source, Path) or set(text.removesuffix(choice)) & set("/\\@"):
        return CatalogEntry(text) if Path(text).expanduser().exists() else _of_address(text)
    registered = names()
    if text in registered:
        return registered[text]
    return CatalogEntry(text) if Path(text).exists() else None


def _of_address(text: str) -> CatalogEntry:
    """The entry that is registered for an address, at any revision."""
    address = hub.address(text)
    if address is not None:
        for entry in names().values():
            known = hub.address(entry.source) if entry.host is None else None
            if known is not None and (known.repo, known.folder) == (address.repo, address.folder):
                return replace(entry, source=text)
    return CatalogEntry(text)


def _name_of_plugin(entry: CatalogEntry) -> str:
    """The name by which a plugin knows a dictionary. Raises NotFoundError, with the command that
    installs the host, if it is not installed."""
    plugin_loading.import_host(str(entry.host))
    return entry.source


def _folder(source: str, progress: Progress | None) -> Path:
    """The folder of the files: ``source`` if there is such a path, else downloaded."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    address = hub.address(source)
    if address is None:
        raise NotFoundError(
            f"no dictionary {source!r}: no such path exists, and it is not an address on the Hub "
            "(org/name, org/name/folder or org/name@revision)"
        )
    try:
        return hub.hub().download(address, progress)
    except NotFoundError as error:
        raise NotFoundError(
            f"no dictionary {source!r}: no such path exists on this machine, and {error}"
        ) from None


def _open(folder: Path, options: LoadOptions) -> Dictionary:
    if is_run(folder):
        folder = dictionary_of(folder)
    if not folder.is_dir():
        raise FormatError(_unknown(folder))
    return writing.read_consistently(folder, lambda folder: _read(folder, options))


def _read(folder: Path, options: LoadOptions) -> Dictionary:
    known = readers.recognize(folder)
    if known is None:
        raise FormatError(_unknown(folder))
    return _build(readers.read(known, folder), f"{folder} ({known.name})", options)


def _from_plugins(source: Any, options: LoadOptions) -> Dictionary:
    dictionary = from_plugins(source, options)
    if dictionary is not None:
        if options.k is not None:
            raise InputError(f"k={options.k} is for files of TopK; this is a {dictionary!r}")
        dictionary.feature_input_hook = options.feature_input_hook or dictionary.feature_input_hook
        dictionary.feature_output_hook = (
            options.feature_output_hook or dictionary.feature_output_hook
        )
        return dictionary
    if not isinstance(source, str | Path):
        raise InputError(
            f"a dictionary cannot be loaded from a {type(source).__name__}; expected a name, a "
            "path, or transcoders of SAELens, one per layer (with sae-lens installed)"
        )
    raise NotFoundError(
        f"no dictionary {str(source)!r}: it is not a registered name and no such path exists; "
        f"{nearest(str(source), [*names(), NEURONS, *known_names()])}. tl-attribution list shows "
        "them all. For the model's own neurons use tla.neurons(model)"
    )


def _build(files: DictionaryFiles, label: str, options: LoadOptions) -> Transcoder:
    """The dictionary of the class for its kind, read onto a device if the options say one."""
    read, write = _hooks(files, label, options)
    device, dtype = options.device, options.dtype
    stored = files.layers if dtype is None else [layer.cast(dtype) for layer in files.layers]
    onto_device = device is not None and torch.device(device).type != "cpu"
    layers = [layer.in_memory(device) for layer in stored] if onto_device and device else stored
    return CLASSES[files.kind](
        layers,
        _activation(files, options.k, label),
        feature_input_hook=read,
        feature_output_hook=write,
        model_name=files.model_name if isinstance(files.model_name, str) else None,
    )


def _activation(files: DictionaryFiles, k: int | None, label: str) -> Activation:
    """The files' activation, with ``k`` if it is a TopK. Raises InputError for a TopK of unknown k,
    and for a k of another activation."""
    if files.activation is None:
        if k is None:
            raise InputError(
                f"{label}: the files say TopK, but not its k; give load_dictionary "
                "k= (such as 128), on the command line --k"
            )
        return TopK(k, signed=True)
    if k is None:
        return files.activation
    if not isinstance(files.activation, TopK):
        raise InputError(
            f"{label}: k={k} is for TopK; this is a {type(files.activation).__name__}: leave it out"
        )
    return replace(files.activation, k=k)


def _hooks(files: DictionaryFiles, label: str, options: LoadOptions) -> tuple[str, str]:
    """Read and write hook. Raises InputError if neither the files nor the options say one."""
    read = options.feature_input_hook or files.feature_input_hook
    write = options.feature_output_hook or files.feature_output_hook
    if isinstance(read, str) and isinstance(write, str):
        return read, write
    hooks = (
        (read, "feature_input_hook= (such as 'mlp.hook_in')", "--reads"),
        (write, "feature_output_hook= (such as 'hook_mlp_out')", "--writes"),
    )
    missing = [(argument, flag) for hook, argument, flag in hooks if not isinstance(hook, str)]
    raise InputError(
        f"{label}: the files don't say where features read and write; give load_dictionary "
        f"{' and '.join(argument for argument, _ in missing)}, on the command line "
        f"{' and '.join(flag for _, flag in missing)}"
    )


def _unknown(folder: Path) -> str:
    if writing.is_unfinished(folder):
        return (
            f"{folder}: saving a dictionary there was interrupted before it was complete; save it "
            "again"
        )
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    for file in files:
        if remedy := pickles.remedy(file.suffix):
            return (
                f"{folder} holds {file.name}, a pickle, which can run code when it is read, so it "
                f"is not opened: {remedy}"
            )
    problem = "is a file, expected a folder" if folder.is_file() else "is not a dictionary"
    return (
        f"{folder} {problem} of a known format (found: {listed(f.name for f in files)}). "
        f"{readers.needs()}"
    )
