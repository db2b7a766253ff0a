"""Trained transcoders, the base of cross-layer and per-layer ones: encoders, biases, activation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation
from tl_attribution.dictionaries.base import Dictionary, Encoded, FeatureReads
from tl_attribution.dictionaries.formats import writers
from tl_attribution.dictionaries.formats.writing import SaveFormat
from tl_attribution.dictionaries.layers import Layer
from tl_attribution.dictionaries.layers import LayerWeights as LayerWeights
from tl_attribution.dictionaries.weights import (
    TranscoderKind,
    TranscoderWeights,
    check_layers,
)
from tl_attribution.errors import FormatError
from tl_attribution.shapes import Stream


class Transcoder(Dictionary):
    """Trained features with one encoder vector each. Subclasses say where they write."""

    kind: ClassVar[TranscoderKind]  # type: ignore[assignment]  # narrower, and never assigned to

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: Activation,
        *,
        feature_input_hook: str,
        feature_output_hook: str = "hook_mlp_out",
        model_name: str | None = None,
    ) -> None:
        check_layers(self.kind, layers, activation)
        self.layers = tuple(layers)
        self.activation = activation
        self.n_layers = len(layers)
        self.n_features, self.d_model = layers[0].shape
        self.feature_input_hook = feature_input_hook
        self.feature_output_hook = feature_output_hook
        self.model_name = model_name

    @property
    def weights(self) -> TranscoderWeights:
        """The weights and what they are, as formats write them."""
        return TranscoderWeights(
            self.kind,
            self.layers,
            self.activation,
            self.feature_input_hook,
            self.feature_output_hook,
            self.model_name,
        )

    def encode_layer(self, layer: int, x: Stream) -> Encoded:
        """Activations and pre-activations of one layer. Raises FormatError if its encoder is not
        finite."""
        weights = self.layers[layer]
        encoder, bias = weights.W_enc, weights.b_enc
        pre = x @ encoder.to(x).T + bias.to(x)
        if not pre.isfinite().all() and x.isfinite().all():
            _raise_not_finite(layer, W_enc=encoder, b_enc=bias)
        return Encoded(self.activation(pre, layer), pre)

    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> FeatureReads:
        """Encoder vectors and biases."""
        del position
        weights = self.layers[layer]
        rows = weights.encoder_rows(index)
        return FeatureReads(rows.to(x), weights.b_enc[index.to(weights.b_enc.device)].to(x))

    def writes(
        self, layer: int, index: Int[Tensor, " active"], target: int
    ) -> Float[Tensor, "active d_model"]:
        """Decoder vectors. Raises FormatError if one is not finite."""
        rows = self.layers[layer].decoder_rows(index, target - layer)
        if not rows.sum().isfinite():  # one pass over many rows, and no mask
            _raise_not_finite(layer, W_dec=self.layers[layer].W_dec)
        return rows

    def written_activation(
        self,
        layer: int,
        index: Int[Tensor, " active"],
        target: int,
        activation: Float[Tensor, "*batch active"],
    ) -> Float[Tensor, "*batch active"]:
        """The activation, plus its feature's offset for ``target`` where it is active."""
        offset = self.layers[layer].offset
        if offset is None:
            return activation
        added = offset[index.to(offset.device), target - layer].to(activation)
        return activation + added * (activation != 0)

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

    def save(
        self,
        path: str | Path,
        *,
        format: SaveFormat = "tl-attribution",
        overwrite: bool = False,
    ) -> None:
        """Save to a folder, whole or not at all: ``tl-attribution`` (see formats/native.py),
        ``circuit-tracer``, or ``sae-lens`` (one folder per layer for transcoders, a single one for
        a CLT).

        The files of a dictionary that was saved there in this format are replaced. Every other file
        is kept, such as ``README.md`` and ``evaluation.json``, which then is the old dictionary's:
        evaluate again. ``overwrite`` writes into a folder that holds something else, where it
        replaces files of the same names and keeps all others.

        Raises InputError for an unknown format and for weights that the format has no place for;
        without ``overwrite`` for a folder that is neither empty nor a dictionary saved in this
        format, and with it for files that would then be read as a part of the dictionary.
        """
        writers.write(self.weights, path, format=format, overwrite=overwrite)


def _raise_not_finite(layer: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            where = ", ".join(str(i) for i in bad[0].tolist())
            raise FormatError(
                f"layer {layer}: {name} has {len(bad)} NaN or infinite values, the first at "
                f"[{where}]"
            )
