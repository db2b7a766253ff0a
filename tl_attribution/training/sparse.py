"""Sparse products of a dictionary: their cost follows the active features, not the width.

All three are sums of weighted rows, so one library kernel serves them on CPUs and GPUs: PyTorch's
``embedding_bag``. Its forward pass, with the roles of rows and bags exchanged, is also the gradient
of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from tl_attribution.training import kernels

DENSE_ABOVE = 0.1
"""Share of active entries from which dense products are faster than sparse ones."""

Tables = Sequence[Float[Tensor, "feature d_model"]]
"""The decoder of one layer: what its features write to that layer, and to each one after it. A
table alone fits a cache."""


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


def products(at: Active, rows: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
    """Σ over tables of rows[token] · table[feature] for every entry: [active] from as many
    [token, d] as [feature, d]."""
    pairs = list(zip(rows, tables, strict=True))
    if at.dense:
        return sum_of([row @ table.T for row, table in pairs])[at.token, at.feature]
    # The gradient of embedding_bag with respect to its weights is just this. By feature, a table is
    # read once from its beginning to its end, and the smaller rows stay in the cache.
    product = torch.ops.aten._embedding_bag_per_sample_weights_backward
    feature, token, start = at.feature.index_select(0, at.order), at.sorted_token, at.feature_start
    total = sum_of([product(table, row, token, start, feature, 0) for row, table in pairs])
    return torch.empty_like(total).index_copy_(0, at.order, total)


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum of some tensors, in the first one's place."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


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


def written_norm(tables: Tables) -> Float[Tensor, " feature"]:
    """Length of all that each feature writes."""
    return torch.stack([table.norm(dim=1) for table in tables], dim=1).norm(dim=1)


class Decode(torch.autograd.Function):
    """What the active features of all layers write, [layer, token, d_model].

    Takes the entries of every layer and the number of its tables, then each layer's values
    [active], then all tables of the first layer, of the second, and so on.
    """

    @staticmethod
    def forward(
        ctx: Any, ats: tuple[Active, ...], written: tuple[int, ...], *tensors: Tensor
    ) -> Tensor:
        """Sum over source layers, each written to its own and later layers."""
        ctx.ats, ctx.written = ats, written
        ctx.save_for_backward(*tensors)
        values, decoders = _by_layer(tensors, written)
        out = values[0].new_zeros(len(ats), ats[0].n_tokens, decoders[0][0].shape[1])
        for layer, (at, a, tables) in enumerate(zip(ats, values, decoders, strict=True)):
            for to, made in enumerate(sum_by_token(at, a, tables), layer):
                out[to] += made
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of values and decoders."""
        grad = grads[0].contiguous()
        values, decoders = _by_layer(ctx.saved_tensors, ctx.written)
        to_values, to_tables = [], []
        for layer, (at, a, tables) in enumerate(zip(ctx.ats, values, decoders, strict=True)):
            rows = grad[layer : layer + len(tables)].unbind()
            to_values.append(products(at, rows, tables))
            to_tables += sum_by_feature(at, a, rows)
        return None, None, *to_values, *to_tables


def _by_layer(
    tensors: Sequence[Tensor], written: Sequence[int]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Each layer's values, and each layer's tables."""
    rest = iter(tensors)
    values = list(islice(rest, len(written)))
    return values, [list(islice(rest, n)) for n in written]


def decode(
    ats: Sequence[Active], values: Sequence[Tensor], decoders: Sequence[Tables]
) -> Float[Tensor, "layer token d_model"]:
    """What the active features write: see :class:`Decode`, the dense product's equal."""
    written = tuple(len(tables) for tables in decoders)
    return Decode.apply(tuple(ats), written, *values, *chain.from_iterable(decoders))


def decode_dense(
    ats: Sequence[Active], values: Sequence[Tensor], decoders: Sequence[Tables]
) -> Float[Tensor, "layer token d_model"]:
    """The same by dense products: slow, obvious, and the reference in tests."""
    out = [values[0].new_zeros(ats[0].n_tokens, decoders[0][0].shape[1]) for _ in ats]
    for layer, (at, a, tables) in enumerate(zip(ats, values, decoders, strict=True)):
        for to, table in enumerate(tables, layer):
            out[to] = out[to] + at.fill(a) @ table
    return torch.stack(out)
