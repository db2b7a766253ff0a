"""Save a dictionary in one of the formats that can be written."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import cast

from tl_attribution.dictionaries.formats import circuit_tracer, native, sae_lens
from tl_attribution.dictionaries.formats.writing import SaveFormat
from tl_attribution.dictionaries.weights import TranscoderWeights
from tl_attribution.errors import InputError, nearest

WRITERS: dict[SaveFormat, ModuleType] = {
    "tl-attribution": native,
    "circuit-tracer": circuit_tracer,
    "sae-lens": sae_lens,
}


def write(
    weights: TranscoderWeights,
    path: str | Path,
    *,
    format: SaveFormat = "tl-attribution",
    overwrite: bool = False,
) -> None:
    """Write a folder, whole or not at all. Raises InputError for an unknown format, for weights
    that the format has no place for, and for a folder that is not replaced (see
    :func:`.writing.write_folder`)."""
    if format not in WRITERS:
        names = cast("dict[str, ModuleType]", WRITERS)
        raise InputError(f"no format {format!r} to save in: {nearest(format, names)}")
    WRITERS[format].write(weights, path, overwrite=overwrite)
