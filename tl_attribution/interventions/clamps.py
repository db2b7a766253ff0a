"""Clamp features to values, and compute what they then write differently.

A clamped feature of layer s is held at a value whatever it reads. What it writes into the MLP of
every layer that it writes to is its decoder times (value − the activation that it would have), so
its own contribution is replaced there, never added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.replacement.active_features import activations_at
from tl_attribution.shapes import StreamRows


@dataclass(frozen=True, eq=False)
class Clamps:
    """Each is one feature at one position of one row, held at ``factor`` × its ``original``
    activation + ``offset``. Where ``original`` is NaN the activation that it has in this run counts
    (a token that the original run has not)."""

    row: Int[Tensor, " clamp"]
    layer: Int[Tensor, " clamp"]
    position: Int[Tensor, " clamp"]
    feature: Int[Tensor, " clamp"]
    factor: Float[Tensor, " clamp"]
    offset: Float[Tensor, " clamp"]
    original: Float[Tensor, " clamp"]

    def __len__(self) -> int:
        return len(self.row)

    def select(self, keep: Bool[Tensor, " clamp"]) -> Clamps:
        """The clamps where ``keep`` is true."""
        return Clamps(*(getattr(self, f.name)[keep] for f in fields(self)))

    def values(self, current: Float[Tensor, " clamp"]) -> Float[Tensor, " clamp"]:
        """What each is held at, given the activations of this run."""
        base = torch.where(self.original.isnan(), current, self.original)
        return self.factor * base + self.offset


class ClampedChange(NamedTuple):
    """Clamped features of one layer: the activations they are held at, and those they would have
    otherwise."""

    row: Int[Tensor, " clamp"]
    position: Int[Tensor, " clamp"]
    feature: Int[Tensor, " clamp"]
    clamped: Float[Tensor, " clamp"]
    free: Float[Tensor, " clamp"]


def current_change(
    dictionary: Dictionary, clamps: Clamps, layer: int, x: StreamRows
) -> ClampedChange | None:
    """The clamped features of a layer against what they would be on ``x``, which is what they read;
    None if there are none."""
    of_layer = clamps.select(clamps.layer == layer)
    if not len(of_layer):
        return None
    places = (of_layer.row, of_layer.position, of_layer.feature)
    free = activations_at(dictionary, layer, x, *places)
    return ClampedChange(*places, of_layer.values(free), free)


def original_change(clamps: Clamps, layer: int) -> ClampedChange | None:
    """The same against the original run's activations."""
    of_layer = clamps.select(clamps.layer == layer)
    if not len(of_layer):
        return None
    free = of_layer.original
    places = (of_layer.row, of_layer.position, of_layer.feature)
    return ClampedChange(*places, of_layer.values(free), free)


def add_writes(
    dictionary: Dictionary, changes: Sequence[ClampedChange | None], target: int, out: StreamRows
) -> StreamRows:
    """``out`` plus what the changed features of the layers up to ``target`` write differently into
    its MLP's output."""
    added = torch.zeros_like(out)
    for source, change in enumerate(changes[: target + 1]):
        if change is not None and target in dictionary.written_layers(source):
            clamped, free = (
                dictionary.written_activation(source, change.feature, target, activation)
                for activation in (change.clamped, change.free)
            )
            decoders = dictionary.writes(source, change.feature, target).to(added)
            written = (clamped - free)[:, None].to(added) * decoders
            added.index_put_((change.row, change.position), written, accumulate=True)
    return out + added
