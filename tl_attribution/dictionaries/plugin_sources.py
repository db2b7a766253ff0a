"""Dictionaries from plugins: by a name that their host knows, or from their host's objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from tl_attribution import plugin_loading
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.registry import Registry


class LoadOptions(NamedTuple):
    """Arguments of ``load_dictionary`` beside the source; None where the caller passed none."""

    feature_input_hook: str | None = None
    feature_output_hook: str | None = None
    device: str | None = None
    dtype: torch.dtype | None = None
    k: int | None = None


class DictionarySource(NamedTuple):
    """``load`` makes a dictionary of a source, or gives None for one that it does not know;
    ``names`` are the names it knows, for errors that suggest one."""

    load: Callable[[Any, LoadOptions], Dictionary | None]
    names: Callable[[], Iterable[str]]


DICTIONARY_SOURCES: Registry[DictionarySource] = Registry("dictionary source")
"""Sources by name. The last registered is asked first; the first that knows a source is used."""


def from_plugins(source: Any, options: LoadOptions) -> Dictionary | None:
    """The dictionary that a plugin makes of ``source``, or None if no plugin knows it. For a name,
    the installed hosts are imported one after the other until one knows it."""
    tried: list[DictionarySource] = []
    loaded: list[Dictionary] = []

    def load() -> bool:
        while not loaded and (left := [s for s in DICTIONARY_SOURCES.values() if s not in tried]):
            tried.append(left[0])
            loaded.extend(d for d in [left[0].load(source, options)] if d is not None)
        return bool(loaded)

    if not load() and isinstance(source, str):
        plugin_loading.import_hosts(until=load)
        load()
    return loaded[0] if loaded else None


def known_names() -> list[str]:
    """Every name that a plugin knows."""
    return [name for source in DICTIONARY_SOURCES.values() for name in source.names()]
