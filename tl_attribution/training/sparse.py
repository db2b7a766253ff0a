"""Sparse products of a dictionary: their cost follows the active features, not the width.

All three are sums of weighted rows, so one library kernel serves them on CPUs and GPUs: PyTorch's
``embedding_bag``. Its forward pass, with the roles of rows and bags exchanged, is also the gradient
of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from tl_attribution.training import kernels

DENSE_ABOVE = 0.1
"""Share of active entries from which dense products are faster than sparse ones."""


class Active(NamedTuple):
    """Which features of one layer are active on which tokens, ordered by token.

    ``order`` sorts the entries by feature, ``sorted_token`` are their tokens then; the starts say
    where each token's entries begin, and each feature's among the sorted ones.
    """

    token: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    order: Int[Tensor, " active"]
    sorted_token: Int[Tensor, " active"]
    token_start: Int[Tensor, " token"]
    feature_start: Int[Tensor, " feature"]

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return len(self.token_start)

    @property
    def n_features(self) -> int:
        """Features of the layer."""
        return len(self.feature_start)

    @property
    def dense(self) -> bool:
        """Whether there are so many entries that dense products are faster."""
        return len(self.token) > DENSE_ABOVE * self.n_tokens * self.n_features

    def fill(self, values: Float[Tensor, " active"]) -> Float[Tensor, "token feature"]:
        """The entries as a dense matrix, zero elsewhere."""
        out = values.new_zeros(self.n_tokens, self.n_features)
        out[self.token, self.feature] = values
        return out


def active(mask: Tensor) -> Active:
    """The entries of a mask [token, feature]."""
    token, feature = mask.nonzero().unbind(1)
    return indexed(token, feature, *mask.shape)


def active_among(mask: Tensor, columns: Tensor, n_features: int) -> Active:
    """The entries of a mask [token, column], whose columns are some of the features."""
    token, column = mask.nonzero().unbind(1)
    return indexed(token, columns[column], len(mask), n_features)


def indexed(token: Tensor, feature: Tensor, n_tokens: int, n_features: int) -> Active:
    """Entries by token and feature, ordered by token."""
    order = kernels.order(feature, n_features)
    starts = _starts(token, n_tokens), _starts(feature, n_features)
    return Active(token, feature, order, token.index_select(0, order), *starts)


def _starts(index: Tensor, n: int) -> Tensor:
    counts = torch.bincount(index, minlength=n)
    return counts.cumsum(0) - counts


def sum_by_token(at: Active, values: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """Σ over a token's features of value · table[feature]: [token, d] from each table
    [feature, d]."""
    if at.dense:
        filled = at.fill(values)
        return [filled @ table for table in tables]
    return [
        embedding_bag(at.feature, table, at.token_start, mode="sum", per_sample_weights=values)
        for table in tables
    ]


def sum_by_feature(at: Active, values: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """Σ over a feature's tokens of value · table[token]: [feature, d] from each table
    [token, d]."""
    if at.dense:
        filled = at.fill(values).T
        return [filled @ table for table in tables]
    token, start, weights = at.sorted_token, at.feature_start, values.index_select(0, at.order)
    return [
        embedding_bag(token, table, start, mode="sum", per_sample_weights=weights)
        for table in tables
    ]


def products(at: Active, rows: Tensor, table: Tensor) -> Tensor:
    """rows[token] · table[feature] for every entry: [active] from [token, d] and [feature, d]."""
    if at.dense:
        return (rows @ table.T)[at.token, at.feature]
    # The gradient of embedding_bag with respect to its weights is just this.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows, table, at.feature, at.token_start, at.token, 0
    )


class Encode(torch.autograd.Function):
    """Pre-activations at some entries, [active]. The dense product that chose the entries gives
    their values; the gradients come from the entries alone."""

    @staticmethod
    def forward(
        ctx: Any, at: Active, x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor
    ) -> Tensor:
        """``values``: the pre-activations, already computed."""
        del W_enc, b_enc
        ctx.at = at
        ctx.save_for_backward(x)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of ``W_enc`` and ``b_enc``; inputs are data and need none."""
        (x,), grad, at = ctx.saved_tensors, grads[0], ctx.at
        bias = torch.bincount(at.feature, weights=grad, minlength=at.n_features)
        return None, None, sum_by_feature(at, grad, [x])[0], bias, None


class Decode(torch.autograd.Function):
    """What the active features of all layers write, [layer, token, d_model].

    Takes the entries of every layer, then each layer's values [active], then each layer's decoders
    [feature, written, d_model].
    """

    @staticmethod
    def forward(ctx: Any, ats: tuple[Active, ...], *tensors: Tensor) -> Tensor:
        """Sum over source layers, each written to its own and later layers."""
        n = len(ats)
        values, decoders = tensors[:n], tensors[n:]
        ctx.ats = ats
        ctx.save_for_backward(*tensors)
        out = values[0].new_zeros(n, ats[0].n_tokens, decoders[0].shape[2])
        for layer, (at, a, W) in enumerate(zip(ats, values, decoders, strict=True)):
            tables = [table.contiguous() for table in W.unbind(1)]  # each fits a cache
            for to, made in enumerate(sum_by_token(at, a, tables), layer):
                out[to] += made
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of values and decoders."""
        n, grad = len(ctx.ats), grads[0].contiguous()
        values, decoders = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        to_values, to_decoders = [], []
        for layer, (at, a, W) in enumerate(zip(ctx.ats, values, decoders, strict=True)):
            rows = grad[layer : layer + W.shape[1]]
            to_values.append(products(at, rows.transpose(0, 1).flatten(1), W.flatten(1)))
            to_decoders.append(torch.stack(sum_by_feature(at, a, rows.unbind()), dim=1))
        return None, *to_values, *to_decoders


def decode(
    ats: list[Active], values: list[Tensor], decoders: list[Tensor]
) -> Float[Tensor, "layer token d_model"]:
    """What the active features write: see :class:`Decode`, the dense product's equal."""
    return Decode.apply(tuple(ats), *values, *decoders)


def decode_dense(
    ats: list[Active], values: list[Tensor], decoders: list[Tensor]
) -> Float[Tensor, "layer token d_model"]:
    """The same by dense products: slow, obvious, and the reference in tests."""
    out = [decoders[0].new_zeros(ats[0].n_tokens, decoders[0].shape[2]) for _ in ats]
    for layer, (at, a, W) in enumerate(zip(ats, values, decoders, strict=True)):
        for k in range(W.shape[1]):
            out[layer + k] = out[layer + k] + at.fill(a) @ W[:, k]
    return torch.stack(out)
