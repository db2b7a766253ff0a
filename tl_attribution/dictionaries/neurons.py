"""The model's own MLP neurons as a dictionary: no training, no reconstruction error.

A plain MLP's neuron reads ``x · W_in + b_in`` and its activation is a pointwise function of that. A
gated MLP's neuron is ``f(x · W_gate + b_gate) · (x · W_in + b_in)``; with the gate frozen it is
affine in what it reads, so pre-activation and activation are the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.activations import pointwise
from tl_attribution.dictionaries.base import Dictionary, Encoded, Reads
from tl_attribution.errors import FormatError, InputError, MismatchError
from tl_attribution.shapes import Stream


@dataclass(frozen=True, eq=False)
class MlpWeights:
    """One layer's MLP, as the adapter reads it from the host. ``W_gate`` makes it a gated MLP."""

    W_in: Float[Tensor, "d_model feature"]
    W_out: Float[Tensor, "feature d_model"]
    activation: str
    b_in: Float[Tensor, " feature"] | None = None
    b_out: Float[Tensor, " d_model"] | None = None
    W_gate: Float[Tensor, "d_model feature"] | None = None
    b_gate: Float[Tensor, " feature"] | None = None

    def __post_init__(self) -> None:
        for name in ("W_in", "W_out", "b_in", "b_out", "W_gate", "b_gate"):
            tensor = getattr(self, name)
            if tensor is not None and not tensor.isfinite().all():
                raise FormatError(f"the model's MLP weights have NaN or infinite values in {name}")


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = x @ weight.to(x)
    return out if bias is None else out + bias.to(x)


class Neurons(Dictionary):
    """One feature per MLP neuron, active where its activation is not zero."""

    kind: ClassVar[str] = "neurons"

    def __init__(
        self,
        layers: Sequence[MlpWeights],
        *,
        feature_input_hook: str,
        feature_output_hook: str,
        model_name: str | None = None,
    ) -> None:
        if not layers:
            raise MismatchError("the model has no MLP layers, so it has no neurons to use")
        self.layers = tuple(layers)
        self.n_layers = len(layers)
        self.d_model, self.n_features = layers[0].W_in.shape
        self.feature_input_hook = feature_input_hook
        self.feature_output_hook = feature_output_hook
        self.model_name = model_name

    def _gate(self, layer: int, x: Stream) -> Float[Tensor, "position feature"] | None:
        mlp = self.layers[layer]
        if mlp.W_gate is None:
            return None
        return pointwise(mlp.activation)(_affine(x, mlp.W_gate, mlp.b_gate))

    def encode_layer(self, layer: int, x: Stream) -> Encoded:
        """Neuron activations of one layer."""
        mlp = self.layers[layer]
        pre = _affine(x, mlp.W_in, mlp.b_in)
        gate = self._gate(layer, x)
        if gate is not None:
            return Encoded(gate * pre, gate * pre)
        return Encoded(pointwise(mlp.activation)(pre), pre)

    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> Reads:
        """Input weights, times the frozen gate where there is one."""
        mlp = self.layers[layer]
        at = index.to(mlp.W_in.device)
        vectors = mlp.W_in.T[at].to(x)
        bias = x.new_zeros(len(index)) if mlp.b_in is None else mlp.b_in[at].to(x)
        gate = self._gate(layer, x)
        if gate is None:
            return Reads(vectors, bias)
        frozen = gate[position, index]
        return Reads(vectors * frozen[:, None], bias * frozen)

    def written_layers(self, layer: int) -> range:
        """Its own layer only."""
        return range(layer, layer + 1)

    def writes(
        self, layer: int, index: Int[Tensor, " active"], target: int
    ) -> Float[Tensor, "active d_model"]:
        """Output weights."""
        del target
        W_out = self.layers[layer].W_out
        return W_out[index.to(W_out.device)]

    def decoder_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """The MLP's output bias."""
        return self.layers[layer].b_out

    def save(
        self, path: str | Path, *, format: str = "tl-attribution", overwrite: bool = False
    ) -> None:
        """Neurons are the model's own weights, so there is nothing to save: always InputError."""
        raise InputError(
            f"neurons are the model's own weights and are not saved (to {path}); "
            "use tla.neurons(model) wherever they are needed"
        )
