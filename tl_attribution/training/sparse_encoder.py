"""Find the pre-activations above a threshold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution import kernels
from tl_attribution.training import thresholds
from tl_attribution.training.config import DType
from tl_attribution.training.distributed import ProcessGrid

CHUNK_ENTRIES = {"cpu": 1 << 21}
"""Pre-activations of one layer in memory at a time: on a CPU few enough for its cache."""
DEFAULT_CHUNK_ENTRIES = 1 << 28
"""The same on any other device."""


class Encoder(NamedTuple):
    """One layer's encoder, and the precision of its products."""

    W: Float[Tensor, "feature d_model"]
    b: Float[Tensor, " feature"]
    dtype: DType


class Entries(NamedTuple):
    """Pre-activations at some tokens and features, ordered by token."""

    token: Int[Tensor, " entry"]
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]


def preactivations_above(
    x: Float[Tensor, "token d_model"],
    encoder: Encoder,
    threshold: Float[Tensor, " feature"],
    k: int | None,
    grid: ProcessGrid,
) -> Entries:
    """Find the pre-activations above their feature's threshold; with ``k``, instead the k largest
    positive ones of each token."""
    chunk_size = CHUNK_ENTRIES.get(x.device.type, DEFAULT_CHUNK_ENTRIES) // len(encoder.b)
    chunks = x.split(max(1, chunk_size))
    dense = x.new_empty(len(chunks[0]), len(encoder.b))  # one for all chunks: it stays in the cache
    parts, first = [], 0
    for chunk in chunks:
        entries = _chunk_entries(chunk, encoder, threshold, k, grid, dense[: len(chunk)])
        parts.append(entries._replace(token=entries.token + first))
        first += len(chunk)
    if len(parts) == 1:
        return parts[0]
    return Entries(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _chunk_entries(
    x: Tensor, encoder: Encoder, threshold: Tensor, k: int | None, grid: ProcessGrid, out: Tensor
) -> Entries:
    dense = _product(x, encoder, out)
    if k is None:
        mask = kernels.greater(dense, (threshold - encoder.b)[None])
        flat, token, feature = kernels.nonzero(mask)
        value = dense.flatten().index_select(0, flat) + encoder.b.index_select(0, feature)
        return Entries(token, feature, value)
    dense += encoder.b
    return _topk_entries(dense, k, grid)


def _topk_entries(pre: Tensor, k: int, grid: ProcessGrid) -> Entries:
    """The k largest positive pre-activations [token, feature] of each token. A lower bound leaves
    few candidates, of which a padded table is partitioned."""
    flat, token, feature = kernels.nonzero(
        kernels.greater(pre, thresholds.topk_lower_bound(pre, k))
    )
    value = pre.flatten().index_select(0, flat)
    table = thresholds.padded_by_token(token, value, len(pre))
    threshold = thresholds.token_threshold(table, k, grid)
    keep = kernels.flat_nonzero(value >= threshold[:, 0].index_select(0, token))
    return Entries(*(t.index_select(0, keep) for t in (token, feature, value)))


def _product(x: Tensor, encoder: Encoder, out: Tensor) -> Tensor:
    """All pre-activations of a layer, without the bias, [token, feature]."""
    if encoder.dtype == "bfloat16":
        return out.copy_(x.bfloat16() @ encoder.W.bfloat16().T)
    return kernels.linear(x, encoder.W, out)
