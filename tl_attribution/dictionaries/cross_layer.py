"""Cross-layer transcoders: read at one layer, write to that layer's MLP output and later ones'."""

from __future__ import annotations

from typing import ClassVar

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import MismatchError


class CrossLayerTranscoder(Transcoder):
    """A CLT (methods paper, "Cross-layer transcoder"). Layer l's ``W_dec`` holds the decoders into
    layers l, l+1, … up to the last one, or up to a window shared by all layers."""

    kind: ClassVar[str] = "cross-layer transcoder"

    def _check_decoders(self) -> None:
        window = self.layers[0].n_written
        for layer, weights in enumerate(self.layers):
            expected = min(window, self.n_layers - layer)
            if weights.n_written != expected:
                raise MismatchError(
                    f"layer {layer}: W_dec writes to {weights.n_written} layers, expected "
                    f"{expected} (layer 0 writes to {window} of {self.n_layers})"
                )

    def written_layers(self, layer: int) -> range:
        """The feature's own layer and those above it that it has a decoder for."""
        return range(layer, layer + self.layers[layer].n_written)
