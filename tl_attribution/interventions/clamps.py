"""Features held at values, and what they then write differently.

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
    """Features of one layer that are held: their activations, and what they would be."""

    row: Int[Tensor, " clamp"]
    position: Int[Tensor, " clamp"]
    feature: Int[Tensor, " clamp"]
    held: Float[Tensor, " clamp"]
    free: Float[Tensor, " clamp"]


def activations_at(
    dictionary: Dictionary,
    layer: int,
    x: StreamRows,
    row: Int[Tensor, " clamp"],
    position: Int[Tensor, " clamp"],
    feature: Int[Tensor, " clamp"],
) -> Float[Tensor, " clamp"]:
    """Activations of some features of a layer. Only the positions asked for are encoded, each once,
    whatever the number of rows."""
    width = x.shape[1]
    places, which = torch.unique(row * width + position, return_inverse=True)
    encoded = dictionary.encode_layer(layer, x.flatten(0, 1)[places])
    return encoded.activation[which, feature]


def change(
    dictionary: Dictionary, clamps: Clamps, layer: int, x: StreamRows
) -> ClampedChange | None:
    """How the clamped features of a layer differ from what they would be on ``x``, which is what
    they read; None if there are none."""
    here = clamps.select(clamps.layer == layer)
    if not len(here):
        return None
    current = activations_at(dictionary, layer, x, here.row, here.position, here.feature)
    return ClampedChange(here.row, here.position, here.feature, here.values(current), current)


def original_change(clamps: Clamps, layer: int) -> ClampedChange | None:
    """The same against the original run's activations."""
    here = clamps.select(clamps.layer == layer)
    if not len(here):
        return None
    free = here.original
    return ClampedChange(here.row, here.position, here.feature, here.values(free), free)


def add_writes(
    dictionary: Dictionary, changes: Sequence[ClampedChange | None], target: int, out: StreamRows
) -> StreamRows:
    """``out`` plus what the changed features of the layers up to ``target`` write differently into
    its MLP's output."""
    added = torch.zeros_like(out)
    for source, made in enumerate(changes[: target + 1]):
        if made is not None and target in dictionary.written_layers(source):
            held, free = (
                dictionary.written_activation(source, made.feature, target, activation)
                for activation in (made.held, made.free)
            )
            decoders = dictionary.writes(source, made.feature, target).to(added)
            written = (held - free)[:, None].to(added) * decoders
            added.index_put_((made.row, made.position), written, accumulate=True)
    return out + added
