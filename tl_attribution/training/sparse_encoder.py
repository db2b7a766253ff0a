"""Where pre-activations are above a threshold, and what they are there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.training import kernels, thresholds
from tl_attribution.training.distributed import ProcessGrid

AT_ONCE = {"cpu": 1 << 21}
"""Pre-activations of one layer that are in memory at a time: on a CPU few enough for its cache."""
MANY = 1 << 28
"""The same on any other device."""


class Encoder(NamedTuple):
    """One layer's encoder, and the type that products are computed in."""

    W: Float[Tensor, "feature d_model"]
    b: Float[Tensor, " feature"]
    dtype: str


def above(
    x: Float[Tensor, "token d_model"],
    encoder: Encoder,
    least: Float[Tensor, " feature"],
    k: int | None,
    team: ProcessGrid,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and features at which a pre-activation is above its feature's least, ordered by token,
    and the pre-activations, [found] each; of these, with ``k``, the k largest of each token."""
    found, first = [], 0
    parts = x.split(max(1, AT_ONCE.get(x.device.type, MANY) // len(encoder.b)))
    room = x.new_empty(len(parts[0]), len(encoder.b))  # the same for all: a cache holds it
    for part in parts:
        token, *rest = _above(part, encoder, least, k, team, room[: len(part)])
        found.append((token + first, *rest))
        first += len(part)
    if len(found) == 1:
        return found[0]
    token, feature, pre = (torch.cat(parts) for parts in zip(*found, strict=True))
    return token, feature, pre


def _above(
    x: Tensor, encoder: Encoder, least: Tensor, k: int | None, team: ProcessGrid, room: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dense = _product(x, encoder, room)
    if k is None:
        at, token, feature = kernels.places(kernels.greater(dense, (least - encoder.b)[None]))
        pre = dense.flatten().index_select(0, at) + encoder.b.index_select(0, feature)
        return token, feature, pre
    dense += encoder.b
    at, *place = kernels.places(kernels.greater(dense, thresholds.below_largest(dense, k)))
    pre = dense.flatten().index_select(0, at)
    best = thresholds.token_threshold(thresholds.by_token(place[0], pre, len(x)), k, team)
    keep = kernels.where(pre >= best[:, 0].index_select(0, place[0]))
    token, feature, pre = (t.index_select(0, keep) for t in (*place, pre))
    return token, feature, pre


def _product(x: Tensor, encoder: Encoder, room: Tensor) -> Tensor:
    """All pre-activations of a layer, without the bias, [token, feature]."""
    if encoder.dtype == "bfloat16":
        return room.copy_(x.bfloat16() @ encoder.W.bfloat16().T)
    return kernels.multiply(x, encoder.W, room)
