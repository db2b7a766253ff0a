"""The catalog of dictionaries: names from ``names.json``, the user's file and other packages.

Three more places are read: files of other packages, each an entry point in the group
``tl_attribution.dictionaries`` whose value is the file's path; what code registers in
:data:`DICTIONARY_NAMES`; and a file of the user's own
(``~/.config/tl-attribution/dictionaries.json``, or where ``TL_ATTRIBUTION_DICTIONARIES`` says). The
last of these that has a name is used. Files have one form: names, each with its ``source`` (a path,
relative to the file, an address on the Hub, or the name by which its ``host`` knows it) and
whatever of the other fields of :class:`CatalogEntry` is known.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tl_attribution.errors import FormatError, InputError, NotFoundError, nearest
from tl_attribution.plugin_loading import PluginWarning
from tl_attribution.registry import Registry

GROUP = "tl_attribution.dictionaries"
VARIABLE = "TL_ATTRIBUTION_DICTIONARIES"
OURS = Path(__file__).with_name("names.json")
NEURONS = "neurons"
"""Means every model's own MLP neurons, so no dictionary can have this name."""


@dataclass(frozen=True)
class CatalogEntry:
    """A registered dictionary; fields are None where they are unknown."""

    source: str
    """A path, an address on the Hub, or the name by which ``host`` knows it."""
    host: str | None = None
    """The library whose plugin knows it, such as ``sae_lens``."""
    model: str | None = None
    """The model it was trained on."""
    kind: str | None = None
    """As :attr:`tl_attribution.Dictionary.kind`."""
    reads: str | None = None
    """Read hook."""
    writes: str | None = None
    """Write hook."""
    layers: int | None = None
    features: int | None = None
    """Features per layer."""
    k: int | None = None
    """How many features TopK keeps, if the files don't say it."""
    size: int | None = None
    """Bytes of its files."""
    license: str | None = None
    seen: str | None = None
    """Where its existence is documented."""


DICTIONARY_NAMES: Registry[CatalogEntry] = Registry("dictionary name")
"""Entries by name, which selects one. A name that is in no file needs no file."""


def names() -> dict[str, CatalogEntry]:
    """Every registered dictionary by name: ours, then those of other packages and of the user, each
    replacing earlier ones of the same name.

    Raises FormatError for a file that cannot be read as names, InputError for a name that no
    dictionary can have. A package's entry point that does not load is a PluginWarning.
    """
    entries = _read(OURS)
    for file in _package_files():
        entries |= _read(file)
    for name, entry in DICTIONARY_NAMES.items():
        if not _is_name(str(name)):
            raise InputError(f"the dictionary name {name!r}: {_NAMES}")
        entries[str(name)] = entry
    file = _users_file()
    return entries if file is None else entries | _read(file)


def trained_on(model: str) -> dict[str, CatalogEntry]:
    """Registered dictionaries of the models whose names contain ``model``. Raises NotFoundError if
    there are none, suggesting the nearest model."""
    text = model.lower()
    entries = {name: entry for name, entry in names().items() if entry.model is not None}
    chosen = {
        name: entry
        for name, entry in entries.items()
        if text in str(entry.model).lower() or str(entry.model).lower() == Path(text).name
    }
    if not chosen:
        models = [str(entry.model) for entry in entries.values()]
        raise NotFoundError(
            f"no dictionary of model {model!r} is registered: {nearest(model, models)}"
        )
    return chosen


def _package_files() -> Iterator[Path]:
    for point in entry_points(group=GROUP):
        try:
            yield Path(point.load())
        except Exception as error:
            warnings.warn(
                f"{point.value!r} does not name a file of dictionaries: {type(error).__name__}: "
                f"{error}. The other names are known",
                PluginWarning,
                stacklevel=3,
            )


def _users_file() -> Path | None:
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE]).expanduser()
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    usual = Path(settings) / "tl-attribution" / "dictionaries.json"
    return usual if usual.is_file() else None


def _read(file: Path) -> dict[str, CatalogEntry]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_no_name_twice)
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} cannot be read as names of dictionaries: {error}") from error
    if not isinstance(entries, dict):
        raise FormatError(f"{file} holds {type(entries).__name__}: expected a JSON object of names")
    return {name: _entry(file, name, values) for name, values in entries.items()}


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"{', '.join(map(repr, twice))} is registered twice")
    return values


_NAMES = f"a name is not {NEURONS!r} and has no '/', '\\' or '@'"


def _is_name(name: str) -> bool:
    return name != NEURONS and bool(name.strip()) and not set(name) & set("/\\@")


def _entry(file: Path, name: str, values: Any) -> CatalogEntry:
    """Check one entry; a relative path becomes an absolute one."""
    label = f"{file}, {name!r}"
    if not _is_name(name):
        raise FormatError(f"{label}: {_NAMES}")
    known = {field.name: field for field in fields(CatalogEntry)}
    if not isinstance(values, dict):
        raise FormatError(f"{label}: expected an object with {', '.join(known)}")
    for key, value in values.items():
        if key not in known:
            raise FormatError(f"{label}: no field {key!r}: {nearest(key, known)}")
        kind = int if "int" in str(known[key].type) else str
        required = known[key].default is MISSING
        if not (type(value) is kind or (value is None and not required)):
            raise FormatError(f"{label}: {key} must be of type {kind.__name__}, got {value!r}")
    if "source" not in values:
        raise FormatError(f"{label}: lacks 'source', a path or an address on the Hub")
    return CatalogEntry(**{**values, "source": _source(file, values["source"])})


def _source(file: Path, source: str) -> str:
    path = Path(source).expanduser()
    if path.is_absolute():
        return str(path)
    return str((file.parent / path).resolve()) if source.startswith(".") else source
