"""The weights of a transcoder dictionary and what they are, without a class around them.

Formats read and write these; :mod:`tl_attribution.dictionaries.loading` chooses the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tl_attribution.dictionaries.activations import Activation, JumpReLU
from tl_attribution.dictionaries.layers import Layer
from tl_attribution.errors import MismatchError

Kind = Literal["cross-layer transcoder", "transcoders", "neurons"]
"""Kinds of dictionaries."""
TranscoderKind = Literal["cross-layer transcoder", "transcoders"]
"""Kinds of dictionaries that have weights of their own."""


@dataclass(frozen=True, eq=False)
class TranscoderWeights:
    """Weights of all layers, their activation, and where features read and write.

    Raises MismatchError for layers, decoders or thresholds that don't fit each other or the kind.
    """

    kind: TranscoderKind
    layers: Sequence[Layer]
    activation: Activation
    feature_input_hook: str
    feature_output_hook: str
    model_name: str | None = None

    def __post_init__(self) -> None:
        check_layers(self.kind, self.layers, self.activation)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def n_features(self) -> int:
        """Features per layer."""
        return self.layers[0].shape[0]

    @property
    def d_model(self) -> int:
        """Width of the stream that features read and write."""
        return self.layers[0].shape[1]


def check_layers(
    kind: TranscoderKind, layers: Sequence[Layer], activation: Activation | None
) -> None:
    """Raise MismatchError unless the layers fit each other, the kind and the activation's
    thresholds."""
    if not layers:
        raise MismatchError("a dictionary needs the weights of at least one layer")
    shapes = {layer.shape for layer in layers}
    if len(shapes) > 1:
        raise MismatchError(f"layers differ in their encoders' shapes: {sorted(shapes)}")
    if kind == "transcoders":
        _check_per_layer_decoders(layers)
    else:
        _check_cross_layer_decoders(layers)
    if isinstance(activation, JumpReLU):
        expected = (len(layers), layers[0].shape[0])
        shape = tuple(activation.threshold.shape)
        if shape != expected:
            raise MismatchError(f"JumpReLU thresholds are {shape}, expected {expected}")


def _check_per_layer_decoders(layers: Sequence[Layer]) -> None:
    for i, layer in enumerate(layers):
        if layer.n_written != 1:
            raise MismatchError(
                f"layer {i}: a per-layer transcoder writes to one layer, W_dec to {layer.n_written}"
            )


def _check_cross_layer_decoders(layers: Sequence[Layer]) -> None:
    """Every layer writes to all layers from its own up, or to the same number of them."""
    window = layers[0].n_written
    for i, layer in enumerate(layers):
        expected = min(window, len(layers) - i)
        if layer.n_written != expected:
            raise MismatchError(
                f"layer {i}: W_dec writes to {layer.n_written} layers, expected {expected} "
                f"(layer 0 writes to {window} of {len(layers)})"
            )
