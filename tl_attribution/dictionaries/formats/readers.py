"""Formats of dictionaries: ours and those of others, and the registry that packages add to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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
from tl_attribution.dictionaries.formats.common import DictionaryFiles
from tl_attribution.registry import Registry

_BUILT_IN: tuple[ModuleType, ...] = (
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


class DictionaryFormat(NamedTuple):
    """The functions that read one format, which another package registers."""

    name: str
    needs: str
    """The files that a folder must hold, for messages."""
    recognizes: Callable[[Path], bool]
    """Whether a folder holds a dictionary in this format. Raises nothing for other folders."""
    read: Callable[[Path], DictionaryFiles]
    """Read the dictionary of such a folder. Raises FormatError for corrupt files."""


DICTIONARY_FORMATS: Registry[DictionaryFormat] = Registry(
    "dictionary format",
    {
        reader.NAME: DictionaryFormat(reader.NAME, reader.NEEDS, reader.recognise, reader.read)
        for reader in _BUILT_IN
    },
)
"""Formats by name. The last registered is tried first, those of this package last."""


def needs() -> str:
    """What each format is recognised by, in one line."""
    each = "; ".join(f"{known.name}: {known.needs}" for known in DICTIONARY_FORMATS.values())
    return f"Formats and what they need: {each}"
