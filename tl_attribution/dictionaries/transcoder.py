"""What cross-layer and per-layer transcoders share: trained encoders, biases, an activation."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, JumpReLU
from tl_attribution.dictionaries.base import Dictionary, Encoded, Reads
from tl_attribution.dictionaries.layers import Layer
from tl_attribution.dictionaries.layers import LayerWeights as LayerWeights
from tl_attribution.errors import FormatError, InputError, MismatchError, nearest
from tl_attribution.shapes import Stream


class Transcoder(Dictionary):
    """Trained features with one encoder vector each. Final kinds say where they write."""

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: Activation,
        *,
        feature_input_hook: str,
        feature_output_hook: str = "hook_mlp_out",
        model_name: str | None = None,
    ) -> None:
        if not layers:
            raise MismatchError("a dictionary needs the weights of at least one layer")
        shapes = {w.shape for w in layers}
        if len(shapes) > 1:
            raise MismatchError(f"layers differ in their encoders' shapes: {sorted(shapes)}")
        self.layers = tuple(layers)
        self.activation = activation
        self.n_layers = len(layers)
        self.n_features, self.d_model = layers[0].shape
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
        encoder, bias = weights.W_enc, weights.b_enc
        pre = x @ encoder.to(x).T + bias.to(x)
        if not pre.isfinite().all() and x.isfinite().all():
            _raise_not_finite(layer, W_enc=encoder, b_enc=bias)
        return Encoded(self.activation(pre, layer), pre)

    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> Reads:
        """Encoder vectors and biases."""
        del position
        weights = self.layers[layer]
        rows = weights.encoder_rows(index)
        return Reads(rows.to(x), weights.b_enc[index.to(weights.b_enc.device)].to(x))

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
        self, path: str | Path, *, format: str = "tl-attribution", overwrite: bool = False
    ) -> None:
        """Write a folder, whole or not at all: ``tl-attribution`` (see formats/native.py),
        ``circuit-tracer``, or ``sae-lens`` (transcoders a folder a layer, a CLT in one).

        The files of a dictionary that was saved there in this format are replaced. Every other file
        is kept, such as ``README.md`` and ``evaluation.json``, which then is the old dictionary's:
        evaluate again. ``overwrite`` writes into a folder that holds something else, where it
        replaces files of the same names and keeps all others.

        Raises InputError for an unknown format, for what a format has no place for, and without
        ``overwrite`` for a folder that holds anything but no dictionary saved in this format; with
        it, for files that would then be read as a part of the dictionary.
        """
        from tl_attribution.dictionaries.formats import circuit_tracer, native, sae_lens

        writers = {one.NAME: one.write for one in (native, circuit_tracer, sae_lens)}
        if format not in writers:
            raise InputError(f"no format {format!r} to save in: {nearest(format, writers)}")
        writers[format](self, path, overwrite=overwrite)


def _raise_not_finite(layer: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            where = ", ".join(str(i) for i in bad[0].tolist())
            raise FormatError(
                f"layer {layer}: {name} has {len(bad)} NaN or infinite values, the first at "
                f"[{where}]"
            )
