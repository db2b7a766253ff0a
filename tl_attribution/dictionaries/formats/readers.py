"""Formats of dictionaries: ours and those of others, and the registry that packages add to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tl_attribution import plugin_loading
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
from tl_attribution.dictionaries.weights import check_layers
from tl_attribution.errors import FormatError, TlAttributionError
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
        reader.NAME: DictionaryFormat(reader.NAME, reader.NEEDS, reader.recognize, reader.read)
        for reader in _BUILT_IN
    },
)
"""Formats by name. The last registered is tried first, those of this package last."""


def recognize(folder: Path) -> DictionaryFormat | None:
    """The format that a folder is in, or None. Plugins whose library is not imported yet are asked
    last."""
    if (known := _recognize(folder)) is not None:
        return known
    plugin_loading.import_hosts(until=lambda: _recognize(folder))
    return _recognize(folder)


def _recognize(folder: Path) -> DictionaryFormat | None:
    return next((f for f in DICTIONARY_FORMATS.values() if f.recognizes(folder)), None)


def read(known: DictionaryFormat, folder: Path) -> DictionaryFiles:
    """Open a folder in a format: headers and small tensors are read, matrices are not.

    Raises FormatError for files that are missing, corrupt or not built as the format's are, and
    MismatchError for weights that don't fit each other.
    """
    try:
        files = known.read(folder)
    except TlAttributionError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise FormatError(
            f"{folder} looks like a dictionary of {known.name}, but its config or its tensors are "
            f"not built as theirs are: {error!r}"
        ) from error
    check_layers(files.kind, files.layers, files.activation)
    return files


def needs() -> str:
    """What each format is recognized by, in one line."""
    each = "; ".join(f"{known.name}: {known.needs}" for known in DICTIONARY_FORMATS.values())
    return f"Formats and what they need: {each}"
