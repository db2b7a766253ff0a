"""Cross-layer transcoders: read at one layer, write to that layer's MLP output and later ones'."""

from __future__ import annotations

from typing import ClassVar

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.weights import TranscoderKind


class CrossLayerTranscoder(Transcoder):
    """A CLT (methods paper, "Cross-layer transcoder"). Layer l's ``W_dec`` holds the decoders into
    layers l, l+1, … up to the last one, or up to a window shared by all layers."""

    kind: ClassVar[TranscoderKind] = "cross-layer transcoder"

    def written_layers(self, layer: int) -> range:
        """The feature's layer and those above it that it has a decoder for."""
        return range(layer, layer + self.layers[layer].n_written)
