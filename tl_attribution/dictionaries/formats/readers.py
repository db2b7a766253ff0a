"""All readers, in the order in which they try to recognize a folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

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

READERS: tuple[ModuleType, ...] = (
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


def recognize(folder: Path) -> ModuleType | None:
    """The reader of the format that a folder is in, or None."""
    return next((reader for reader in READERS if reader.recognize(folder)), None)


def read(reader: ModuleType, folder: Path) -> DictionaryFiles:
    """Open a folder in a reader's format: headers and small tensors are read, matrices are not.

    Raises FormatError for files that are missing, corrupt or not built as the format's are, and
    MismatchError for weights that don't fit each other.
    """
    try:
        files = reader.read(folder)
    except TlAttributionError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise FormatError(
            f"{folder} looks like a dictionary of {reader.NAME}, but its config or its tensors are "
            f"not built as theirs are: {error!r}"
        ) from error
    check_layers(files.kind, files.layers, files.activation)
    return files


def needs() -> str:
    """What each format is recognized by, in one line."""
    each = "; ".join(f"{reader.NAME}: {reader.NEEDS}" for reader in READERS)
    return f"Formats and what they need: {each}"
