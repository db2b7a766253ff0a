"""Encode one layer and decode into it, at the cost of the active features alone."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.shapes import Stream


class ActiveColumns(NamedTuple):
    """Activations of the features of one layer that are active anywhere, so that decoding costs
    what the active features cost and not what the dictionary's width does."""

    feature: Int[Tensor, " used"]
    activation: Float[Tensor, "position used"]


def encode_columns(dictionary: Dictionary, layer: int, x: Stream) -> ActiveColumns:
    """One layer's active features on ``x``."""
    activation = dictionary.encode_layer(layer, x).activation
    feature = activation.any(0).nonzero().flatten()
    return ActiveColumns(feature, activation[:, feature])


def reconstruct(
    dictionary: Dictionary, active: list[ActiveColumns], layer: int, x: Stream, reference: Stream
) -> Stream:
    """What the dictionary writes at ``layer``. ``active`` are the features of the layers up to it,
    ``x`` is what is read there, ``reference`` has the shape, device and dtype of the result."""
    out = dictionary.affine(layer, x, reference)
    for source, (feature, activation) in enumerate(active[: layer + 1]):
        if layer in dictionary.written_layers(source):
            written = dictionary.written_activation(source, feature, layer, activation)
            out = out + written @ dictionary.writes(source, feature, layer).to(activation)
    return out
