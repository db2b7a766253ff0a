"""What cross-layer and per-layer transcoders share: trained encoders, biases, an activation."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, JumpReLU
from tl_attribution.dictionaries.base import Dictionary, Encoded, Reads
from tl_attribution.errors import FormatError, MismatchError
from tl_attribution.shapes import Stream


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer's features.

    ``W_enc`` [feature, d_model], ``b_enc`` [feature], ``W_dec`` [feature, written, d_model],
    ``b_dec`` [d_model], ``W_skip`` [out, in]. ``W_dec[i, k]`` is what feature i writes k layers
    above its own, so that one feature's decoder is one run of bytes on disk. Raises MismatchError
    for shapes that don't fit each other.
    """

    # Axes are named by the check below, which says more than a type error would.
    W_enc: Float[Tensor, "_ _"]
    b_enc: Float[Tensor, " _"]
    W_dec: Float[Tensor, "_ _ _"]
    b_dec: Float[Tensor, " _"]
    W_skip: Float[Tensor, "_ _"] | None = None

    def __post_init__(self) -> None:
        features, width = self.W_enc.shape
        expected = {
            "b_enc": (features,),
            "W_dec": (features, self.W_dec.shape[1], width),
            "b_dec": (width,),
            "W_skip": (width, width),
        }
        for name, shape in expected.items():
            found = getattr(self, name)
            if found is not None and tuple(found.shape) != shape:
                raise MismatchError(
                    f"{name} is {tuple(found.shape)}, expected {shape} beside W_enc "
                    f"{(features, width)}"
                )


class Transcoder(Dictionary):
    """Trained features with one encoder vector each. Final kinds say where they write."""

    def __init__(
        self,
        layers: list[LayerWeights],
        activation: Activation,
        *,
        feature_input_hook: str,
        feature_output_hook: str = "hook_mlp_out",
        model_name: str | None = None,
    ) -> None:
        if not layers:
            raise MismatchError("a dictionary needs the weights of at least one layer")
        shapes = {tuple(w.W_enc.shape) for w in layers}
        if len(shapes) > 1:
            raise MismatchError(f"layers differ in their encoders' shapes: {sorted(shapes)}")
        self.layers = tuple(layers)
        self.activation = activation
        self.n_layers = len(layers)
        self.n_features, self.d_model = layers[0].W_enc.shape
        self.feature_input_hook = feature_input_hook
        self.feature_output_hook = feature_output_hook
        self.model_name = model_name
        self._check_decoders()
        if isinstance(activation, JumpReLU):
            expected = (self.n_layers, self.n_features)
            found = tuple(activation.threshold.shape)
            if found != expected:
                raise MismatchError(f"JumpReLU thresholds are {found}, expected {expected}")

    @abc.abstractmethod
    def _check_decoders(self) -> None:
        """Raise MismatchError if a layer's decoder does not fit this kind."""

    def encode_layer(self, layer: int, x: Stream) -> Encoded:
        """Activations and pre-activations of one layer. Raises FormatError if its encoder is not
        finite."""
        weights = self.layers[layer]
        pre = x @ weights.W_enc.to(x).T + weights.b_enc.to(x)
        if not pre.isfinite().all() and x.isfinite().all():
            _raise_not_finite(layer, W_enc=weights.W_enc, b_enc=weights.b_enc)
        return Encoded(self.activation(pre, layer), pre)

    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> Reads:
        """Encoder vectors and biases."""
        del position
        weights = self.layers[layer]
        return Reads(weights.W_enc[index].to(x), weights.b_enc[index].to(x))

    def writes(
        self, layer: int, index: Int[Tensor, " active"], target: int
    ) -> Float[Tensor, "active d_model"]:
        """Decoder vectors. Raises FormatError if one is not finite."""
        rows = self.layers[layer].W_dec[index, target - layer]
        if not rows.sum().isfinite():  # one pass over many rows, and no mask
            _raise_not_finite(layer, W_dec=self.layers[layer].W_dec)
        return rows

    def decoder_bias(self, layer: int) -> Float[Tensor, " d_model"]:
        """``b_dec`` of a layer. Raises FormatError if it is not finite."""
        bias = self.layers[layer].b_dec
        if not bias.isfinite().all():
            _raise_not_finite(layer, b_dec=bias)
        return bias

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """``W_skip`` of a layer, if it has one. Raises FormatError if it is not finite."""
        skip = self.layers[layer].W_skip
        if skip is not None and not skip.isfinite().all():
            _raise_not_finite(layer, W_skip=skip)
        return skip

    def save(self, path: str | Path) -> None:
        """Write ``config.json`` and one safetensors file a layer (see formats/native.py)."""
        from tl_attribution.dictionaries.formats import native

        native.write(self, path)


def _raise_not_finite(layer: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            where = ", ".join(str(i) for i in bad[0].tolist())
            raise FormatError(
                f"layer {layer}: {name} has {len(bad)} NaN or infinite values, the first at "
                f"[{where}]"
            )
