"""``load_dictionary``: from a name or a path to a dictionary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tl_attribution import devices, plugin_loading
from tl_attribution.dictionaries import remote
from tl_attribution.dictionaries.activations import Activation, TopK
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.formats import pickles, writing
from tl_attribution.dictionaries.formats.common import Found
from tl_attribution.dictionaries.formats.readers import READERS, needs
from tl_attribution.dictionaries.names import NEURONS, Entry, names
from tl_attribution.dictionaries.remote import Progress
from tl_attribution.dictionaries.sources import Wanted, from_plugins, known_names
from tl_attribution.dictionaries.tensor_files import listed
from tl_attribution.errors import (
    FormatError,
    InputError,
    NotFoundError,
    TlAttributionError,
    nearest,
)


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
    """Open a dictionary by registered name (``tl-attribution list`` shows them), by path (its
    folder, or that of the run that trained it) or by address on the Hugging Face Hub,
    ``org/name[/folder][@revision]``. What lies on the Hub is fetched into the Hub's cache once,
    checked, and then read from there, also offline; ``progress`` is told (bytes done, in all, of
    what).

    Formats are recognised by the files: ours, circuit-tracer, SAELens, Gemma Scope, clt-training,
    crosslayer-coding, crosslayer-transcoder, Llamascopium. Plugins add names and objects: of
    SAELens the name of a release of transcoders, with the choice among them after a colon (see
    plugins/sae_lens/releases.py), a list of its transcoders, one a layer, or a cross-layer
    transcoder of its.

    The hooks, the model and TopK's ``k`` are only needed where neither the files nor the names say
    them; given, they win. Weights stay on disk and are read as they are needed, in the files' dtype
    unless ``dtype`` is given; computations are in the model's, and on its device, wherever the
    weights are. With a ``device`` other than the CPU they are all read onto it.

    Raises NotFoundError for a source that leads nowhere (suggesting the nearest name), FormatError
    for files that are no dictionary, or corrupt, MismatchError for weights that don't fit each
    other, InputError for hooks or a k that nobody says, a device that is not there, several
    dictionaries in one folder, or objects that make no dictionary, HubError for what goes wrong
    with the Hub.
    """
    if device is not None:
        devices.check(device)
    wanted = Wanted(feature_input_hook, feature_output_hook, device, dtype, k)
    entry = find(source) if isinstance(source, str | Path) else None
    if entry is not None:
        wanted = wanted._replace(
            feature_input_hook=feature_input_hook or entry.reads,
            feature_output_hook=feature_output_hook or entry.writes,
            k=entry.k if k is None else k,
        )
    if entry is None or entry.host is not None:
        dictionary = _from_plugins(source if entry is None else _known_to(entry), wanted)
    else:
        dictionary = _open(_folder(entry.source, progress), wanted)
    registered = entry.model if entry else None  # files call some models as nobody else does
    dictionary.model_name = model_name or registered or dictionary.model_name
    return dictionary


def find(source: str | Path) -> Entry | None:
    """What is known of a source: all that is registered under a name or for an address on the Hub;
    of other paths and addresses only where they lie; None for a name that at most a plugin
    knows."""
    text = str(source)
    choice = "" if "://" in text else text.partition(":")[2]
    if isinstance(source, Path) or set(text.removesuffix(choice)) & set("/\\@"):
        return Entry(text) if Path(text).expanduser().exists() else _of_address(text)
    registered = names()
    if text in registered:
        return registered[text]
    return Entry(text) if Path(text).exists() else None


def _of_address(text: str) -> Entry:
    """What is registered for an address, whatever its revision."""
    where = remote.address(text)
    if where is not None:
        for entry in names().values():
            known = remote.address(entry.source) if entry.host is None else None
            if known is not None and (known.repo, known.folder) == (where.repo, where.folder):
                return replace(entry, source=text)
    return Entry(text)


def _known_to(entry: Entry) -> str:
    """The name by which a plugin knows a dictionary. Raises NotFoundError, with the command that
    installs it, if its host is not there."""
    plugin_loading.import_host(str(entry.host))
    return entry.source


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


def _open(folder: Path, wanted: Wanted) -> Dictionary:
    if (folder / "run.json").is_file():
        folder = of_run(folder)
    if not folder.is_dir():
        raise FormatError(_unknown(folder))
    while True:
        writing.finish(folder)
        before = writing.state(folder)
        try:
            dictionary = _recognised(folder, wanted)
        except TlAttributionError:
            if not _saved_since(folder, before):
                raise
        else:
            if not _saved_since(folder, before):
                return dictionary


def _saved_since(folder: Path, before: object) -> bool:
    """Whether another process has saved meanwhile, so that what was read may be of two."""
    return writing.is_moving(folder) or writing.state(folder) != before


def _recognised(folder: Path, wanted: Wanted) -> Dictionary:
    for reader in READERS:
        if reader.recognise(folder):
            return _build(_read(reader, folder), f"{folder} ({reader.NAME})", wanted)
    raise FormatError(_unknown(folder))


def _from_plugins(source: Any, wanted: Wanted) -> Dictionary:
    dictionary = from_plugins(source, wanted)
    if dictionary is not None:
        if wanted.k is not None:
            raise InputError(f"k={wanted.k} is for files of TopK; this is a {dictionary!r}")
        dictionary.feature_input_hook = wanted.feature_input_hook or dictionary.feature_input_hook
        dictionary.feature_output_hook = (
            wanted.feature_output_hook or dictionary.feature_output_hook
        )
        return dictionary
    if not isinstance(source, str | Path):
        raise InputError(
            f"a {type(source).__name__} is no source of a dictionary; expected a name, a path, or "
            "transcoders of SAELens, one a layer (with sae-lens installed)"
        )
    raise NotFoundError(
        f"no dictionary {str(source)!r}: it is not a registered name and no such path exists; "
        f"{nearest(str(source), [*names(), NEURONS, *known_names()])}. tl-attribution list shows "
        "them all. For the model's own neurons use tla.neurons(model)"
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
    return found.kind(layers, _activation(found, wanted.k, where), **named, model_name=model)


def _activation(found: Found, k: int | None, where: str) -> Activation:
    """The files' activation, with ``k`` where it is a TopK. Raises InputError if nobody says it, or
    if there is none to say."""
    if found.activation is None:
        if k is None:
            raise InputError(
                f"{where}: the files say TopK, but not of how many features; give load_dictionary "
                "k= (such as 128), on the command line --k"
            )
        return TopK(k, signed=True)
    if k is None:
        return found.activation
    if not isinstance(found.activation, TopK):
        raise InputError(
            f"{where}: k={k} is for TopK; this is a {type(found.activation).__name__}: leave it out"
        )
    return replace(found.activation, k=k)


def _check_hooks(hooks: dict[str, str | None], where: str) -> None:
    examples = {"feature_input_hook": "'mlp.hook_in'", "feature_output_hook": "'hook_mlp_out'"}
    options = {"feature_input_hook": "--reads", "feature_output_hook": "--writes"}
    lacking = [name for name, hook in hooks.items() if not isinstance(hook, str)]
    if lacking:
        raise InputError(
            f"{where}: the files don't say where features read and write; give load_dictionary "
            f"{' and '.join(f'{name}= (such as {examples[name]})' for name in lacking)}, on the "
            f"command line {' and '.join(options[name] for name in lacking)}"
        )


def of_run(run: Path) -> Path:
    """The dictionary of a training run. Raises NotFoundError if it has none yet."""
    if not (run / "dictionary").is_dir():
        raise NotFoundError(
            f"the run in {run} has not finished, so it has no dictionary yet; go on with "
            "tl-attribution train … --resume"
        )
    return run / "dictionary"


def _unknown(folder: Path) -> str:
    if writing.is_unfinished(folder):
        return (
            f"{folder}: saving a dictionary there was interrupted before it was whole; save again"
        )
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    for file in files:
        if remedy := pickles.remedy(file.suffix):
            return (
                f"{folder} holds {file.name}, a pickle, which can run code when it is read, so it "
                f"is not opened: {remedy}"
            )
    what = "is a file, expected a folder" if folder.is_file() else "is no dictionary"
    return f"{folder} {what} of a known format (found: {listed(f.name for f in files)}). {needs()}"
