"""Active features of a prompt: sparse, ordered by layer, position and index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.shapes import Activations, Stream, StreamRows


@dataclass(frozen=True, eq=False)
class ActiveFeatures:
    """Active features of one prompt, on the model's device. ``preactivation`` equals ``activation``
    except for ungated MLP neurons (see :class:`~tl_attribution.dictionaries.base.Encoded`)."""

    layer: Int[Tensor, " active"]
    position: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]
    preactivation: Float[Tensor, " active"]

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """All columns, in the order of the fields."""
        return (self.layer, self.position, self.index, self.activation, self.preactivation)

    def select(self, keep: Bool[Tensor, " active"] | Int[Tensor, " kept"]) -> ActiveFeatures:
        """Some of the features, by mask or by row."""
        return ActiveFeatures(*(column[keep] for column in self.columns))

    def to(self, device: str | torch.device) -> ActiveFeatures:
        """The same features on a device."""
        return ActiveFeatures(*(column.to(device) for column in self.columns))

    def to_dense(self, n_layers: int, n_positions: int, n_features: int) -> Activations:
        """The same as a dense tensor, zero where nothing is active."""
        dense = self.activation.new_zeros(n_layers, n_positions, n_features)
        dense[self.layer, self.position, self.index] = self.activation
        return dense


def encode_prompt(
    dictionary: Dictionary, read: Callable[[int], Stream], prefix: int, n_positions: int
) -> ActiveFeatures:
    """Active features of every layer from ``read(layer)``, at positions from ``prefix`` up to
    ``n_positions``. One layer's dense activations exist at a time."""
    parts: list[tuple[Tensor, ...]] = []
    for layer in range(dictionary.n_layers):
        activation, preactivation = dictionary.encode_layer(layer, read(layer)[:n_positions])
        position, index = activation[prefix:].nonzero().unbind(1)
        position = position + prefix
        entries = (position, index)
        layers = torch.full_like(position, layer)
        parts.append((layers, position, index, activation[entries], preactivation[entries]))
    return ActiveFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def activations_at(
    dictionary: Dictionary,
    layer: int,
    x: StreamRows,
    row: Int[Tensor, " clamp"],
    position: Int[Tensor, " clamp"],
    feature: Int[Tensor, " clamp"],
) -> Float[Tensor, " clamp"]:
    """Activations of some features of a layer. Only the positions needed are encoded, each once,
    whatever the number of rows."""
    width = x.shape[1]
    places, which = torch.unique(row * width + position, return_inverse=True)
    encoded = dictionary.encode_layer(layer, x.flatten(0, 1)[places])
    return encoded.activation[which, feature]
