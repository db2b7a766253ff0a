"""Per-layer transcoders: each reads and writes at its own layer, with an optional linear skip."""

from __future__ import annotations

from typing import ClassVar

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.weights import TranscoderKind


class TranscoderSet(Transcoder):
    """One transcoder per layer (Dunefsky et al. 2024; with ``W_skip``, Paulo et al. 2025)."""

    kind: ClassVar[TranscoderKind] = "transcoders"

    def written_layers(self, layer: int) -> range:
        """The feature's layer only."""
        return range(layer, layer + 1)
