"""The catalog of dictionaries: names from ``names.json``, the user's file and other packages.

Two more places are read: a file of the user's own (``~/.config/tl-attribution/dictionaries.json``,
or where ``TL_ATTRIBUTION_DICTIONARIES`` says), and files of other packages, each an entry point in
the group ``tl_attribution.dictionaries`` whose value is the file's path. All have one form: names,
each with its ``source`` (a path, relative to the file, an address on the Hub, or the name by which
its ``host`` knows it) and whatever of the other fields of :class:`CatalogEntry` is known.
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
    licence: str | None = None
    seen: str | None = None
    """Where its existence is documented."""


def names() -> dict[str, CatalogEntry]:
    """Every registered dictionary by name.

    Raises FormatError for a file that cannot be read as names, InputError for a name that is
    registered twice. A package's entry point that does not load is a PluginWarning.
    """
    found: dict[str, CatalogEntry] = {}
    told_by: dict[str, Path] = {}
    for file in _files():
        for name, entry in _read(file).items():
            if name in found:
                raise InputError(
                    f"the dictionary name {name!r} is registered twice: in {told_by[name]} and in "
                    f"{file}; rename one of them"
                )
            found[name], told_by[name] = entry, file
    return found


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


def _files() -> Iterator[Path]:
    yield OURS
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
    if VARIABLE in os.environ:
        yield Path(os.environ[VARIABLE]).expanduser()
        return
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    usual = Path(settings) / "tl-attribution" / "dictionaries.json"
    if usual.is_file():
        yield usual


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


def _entry(file: Path, name: str, values: Any) -> CatalogEntry:
    """Check one entry; a relative path becomes an absolute one."""
    label = f"{file}, {name!r}"
    if name == NEURONS or not name.strip() or set(name) & set("/\\@"):
        raise FormatError(f"{label}: a name is not 'neurons' and has no '/', '\\' or '@'")
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
