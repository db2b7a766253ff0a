"""Per-layer transcoders: each reads and writes at its own layer, with an optional linear skip."""

from __future__ import annotations

from typing import ClassVar

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import MismatchError


class TranscoderSet(Transcoder):
    """One transcoder a layer (Dunefsky et al. 2024; with ``W_skip``, Paulo et al. 2025)."""

    kind: ClassVar[str] = "transcoders"

    def _check_decoders(self) -> None:
        for layer, weights in enumerate(self.layers):
            if weights.n_written != 1:
                raise MismatchError(
                    f"layer {layer}: a per-layer transcoder writes to one layer, W_dec to "
                    f"{weights.n_written}"
                )

    def written_layers(self, layer: int) -> range:
        """Its own layer only."""
        return range(layer, layer + 1)
