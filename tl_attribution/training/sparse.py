"""Sparse matrix products of a dictionary, whose cost follows the active features.

What features write and the gradients of the weights are products with a sparse matrix; the
gradients of the activations are some entries of a dense product. PyTorch calls a library for the
former (cuSPARSE on a GPU, MKL on Intel's processors, FBGEMM on others), and for the latter.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from tl_attribution import kernels

DENSE_ABOVE = {"library": 0.1, "embedding_bag": 0.4}
"""Share of active entries above which dense products are faster than sparse ones, by what computes
the sparse ones: MKL or cuSPARSE, or PyTorch's ``embedding_bag``."""

Tables = Sequence[Float[Tensor, "feature d_model"]]
"""The decoder of one layer: what its features write to that layer, and to each one after it. One
table is small enough for a cache."""


class Active(NamedTuple):
    """The active features of one layer: pairs of token and feature, ordered by token.

    ``order`` sorts the pairs by feature, and ``sorted_token`` are their tokens in that order.
    ``token_start`` and ``feature_start`` say where each token's pairs begin, and each feature's in
    the sorted order; their last entry is the number of pairs.
    """

    token: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    order: Int[Tensor, " active"]
    sorted_token: Int[Tensor, " active"]
    token_start: Int[Tensor, " token+1"]
    feature_start: Int[Tensor, " feature+1"]

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch."""
        return len(self.token_start) - 1

    @property
    def n_features(self) -> int:
        """Features of the layer."""
        return len(self.feature_start) - 1

    @property
    def dense(self) -> bool:
        """Whether so large a share is active that dense products are faster."""
        share = DENSE_ABOVE["embedding_bag" if _use_embedding_bag(self.token) else "library"]
        return len(self.token) > share * self.n_tokens * self.n_features

    def fill(self, values: Float[Tensor, " active"]) -> Float[Tensor, "token feature"]:
        """The values as a dense matrix, zero elsewhere."""
        out = values.new_zeros(self.n_tokens, self.n_features)
        out[self.token, self.feature] = values
        return out

    def by_token(self, values: Float[Tensor, " active"]) -> Matrix:
        """The values as a matrix [token, feature], sparse, or dense where that is faster."""
        if self.dense:
            return self.fill(values)
        return Csr(self.token_start, self.feature, values, self.n_features).matrix()

    def by_feature(self, values: Float[Tensor, " active"]) -> Matrix:
        """The values as a matrix [feature, token], sparse, or dense where that is faster."""
        return self.fill(values).T if self.dense else self.csr_by_feature(values).matrix()

    def csr_by_feature(self, values: Float[Tensor, " active"]) -> Csr:
        """The values as a sparse matrix [feature, token]."""
        sorted_values = values.index_select(0, self.order)
        return Csr(self.feature_start, self.sorted_token, sorted_values, self.n_tokens)


class Csr(NamedTuple):
    """A sparse matrix in compressed rows: where each row begins and the last one ends, and the
    column and value of each entry."""

    start: Int[Tensor, " row+1"]
    column: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    width: int

    def matrix(self) -> Matrix:
        """This matrix in the form whose products are fastest: as it is, or as PyTorch's tensor."""
        return self if _use_embedding_bag(self.value) else self.tensor()

    def tensor(self) -> Float[Tensor, "row column"]:
        """This matrix as PyTorch's sparse tensor."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.start.int(),
                self.column.int(),
                self.value,
                (len(self.start) - 1, self.width),
                check_invariants=False,
            )

    def times(self, table: Float[Tensor, "column d"]) -> Float[Tensor, "row d"]:
        """The product with a dense table, as weighted sums of its rows."""
        # Detached: for a later backward, embedding_bag would compute what only it needs.
        return embedding_bag(
            self.column,
            table.detach(),
            self.start,
            mode="sum",
            per_sample_weights=self.value.detach(),
            include_last_offset=True,
        )


Matrix = Tensor | Csr
"""A dense or a sparse matrix."""


def _use_embedding_bag(reference: Tensor) -> bool:
    """Whether ``embedding_bag`` is the fastest sparse product on the reference's device."""
    return reference.device.type == "cpu" and not kernels.use_mkl()


def active_from_mask(mask: Bool[Tensor, "token feature"]) -> Active:
    """The pairs at which a mask is set."""
    token, feature = mask.nonzero().unbind(1)
    return active_from_indices(token, feature, *mask.shape)


def active_from_columns(
    mask: Bool[Tensor, "token column"], columns: Int[Tensor, " column"], n_features: int
) -> Active:
    """The pairs at which a mask is set whose columns are the features ``columns``."""
    token, column = mask.nonzero().unbind(1)
    return active_from_indices(token, columns[column], len(mask), n_features)


def active_from_indices(
    token: Int[Tensor, " active"], feature: Int[Tensor, " active"], n_tokens: int, n_features: int
) -> Active:
    """Pairs of token and feature, ordered by token."""
    order = kernels.stable_argsort(feature, n_features)
    starts = _starts(token, n_tokens), _starts(feature, n_features)
    return Active(token, feature, order, token.index_select(0, order), *starts)


def _starts(index: Tensor, n: int) -> Tensor:
    counts = torch.bincount(index, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def product(matrix: Matrix, table: Float[Tensor, "inner d"]) -> Float[Tensor, "row d"]:
    """The product of a matrix and a dense table."""
    if isinstance(matrix, Csr):
        return matrix.times(table)
    # Without MKL, older versions of PyTorch multiply the uninitialized memory by beta.
    new = table.new_empty if torch.backends.mkl.is_available() else table.new_zeros
    out = new(matrix.shape[0], table.shape[1])
    return torch.addmm(out, matrix, table, beta=0, out=out)


def _add_product(out: Tensor, matrix: Matrix, table: Tensor) -> None:
    if isinstance(matrix, Csr):
        out += matrix.times(table)
    else:
        out.addmm_(matrix, table)


def sampled_product(
    active: Active, rows: Sequence[Tensor], tables: Sequence[Tensor]
) -> Float[Tensor, " active"]:
    """Σ over tables of rows[token] · table[feature] for each pair, from one [token, d] for each
    [feature, d]."""
    pairs = list(zip(rows, tables, strict=True))
    if active.dense:
        total = rows[0].new_zeros(active.n_tokens, active.n_features)
        for row, table in pairs:
            total.addmm_(row, table.T)
        return total[active.token, active.feature]
    # By feature, so that each table is read once from start to end while the smaller rows stay in
    # the cache.
    sampled = active.csr_by_feature(rows[0].new_zeros(len(active.token))).tensor()
    for row, table in pairs:
        sampled = torch.sparse.sampled_addmm(sampled, table, row.T)
    values = sampled.values()
    return torch.empty_like(values).index_copy_(0, active.order, values)


class Encode(torch.autograd.Function):
    """Pre-activations of the active features. Their values come from the dense product that chose
    them; the gradients are computed from the active features alone."""

    @staticmethod
    def forward(
        ctx: Any, active: Active, x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor
    ) -> Tensor:
        """``values``: the pre-activations [active], already computed."""
        del W_enc, b_enc
        ctx.active = active
        ctx.save_for_backward(x)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of ``W_enc`` and ``b_enc``; inputs are data and need none."""
        (x,), grad, active = ctx.saved_tensors, grads[0], ctx.active
        bias = torch.bincount(active.feature, weights=grad, minlength=active.n_features)
        return None, None, product(active.by_feature(grad), x), bias, None


def decoder_norm(tables: Tables) -> Float[Tensor, " feature"]:
    """Norm of each feature's decoder vectors, over all layers that it writes to."""
    return torch.stack([table.norm(dim=1) for table in tables], dim=1).norm(dim=1)


class Decode(torch.autograd.Function):
    """What the active features of all layers write, [layer, token, d_model].

    Takes the active features of every layer, each layer's number of tables and the tensor for the
    result (in a tuple, as autograd would track a tensor), then each layer's values [active], then
    all tables of the first layer, of the second, and so on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        active: tuple[Active, ...],
        n_tables: tuple[int, ...],
        out: tuple[Tensor],
        *tensors: Tensor,
    ) -> Tensor:
        """Sum over source layers, each writing to itself and to later layers, put into ``out``."""
        ctx.active, ctx.n_tables = active, n_tables
        ctx.save_for_backward(*tensors)
        values, decoders = _by_layer(tensors, n_tables)
        total = out[0].detach().zero_()
        for layer, (pairs, a, tables) in enumerate(zip(active, values, decoders, strict=True)):
            matrix = pairs.by_token(a)
            for target, table in enumerate(tables, layer):
                _add_product(total[target], matrix, table)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of values and decoders."""
        grad = grads[0].contiguous()
        values, decoders = _by_layer(ctx.saved_tensors, ctx.n_tables)
        value_grads, table_grads = [], []
        for layer, (pairs, a, tables) in enumerate(zip(ctx.active, values, decoders, strict=True)):
            rows = grad[layer : layer + len(tables)].unbind()
            value_grads.append(sampled_product(pairs, rows, tables))
            matrix = pairs.by_feature(a)
            table_grads += [product(matrix, row) for row in rows]
        return None, None, None, *value_grads, *table_grads


def _by_layer(
    tensors: Sequence[Tensor], n_tables: Sequence[int]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Each layer's values, and each layer's tables."""
    rest = iter(tensors)
    values = list(islice(rest, len(n_tables)))
    return values, [list(islice(rest, n)) for n in n_tables]


def decode(
    active: Sequence[Active],
    values: Sequence[Tensor],
    decoders: Sequence[Tables],
    out: Float[Tensor, "layer token d_model"] | None = None,
) -> Float[Tensor, "layer token d_model"]:
    """What the active features write, equal to :func:`decode_dense`; see :class:`Decode`. ``out``
    is overwritten with the result."""
    if out is None:
        out = values[0].new_empty(len(active), active[0].n_tokens, decoders[0][0].shape[1])
    n_tables = tuple(len(tables) for tables in decoders)
    return Decode.apply(tuple(active), n_tables, (out,), *values, *chain.from_iterable(decoders))


def decode_dense(
    active: Sequence[Active], values: Sequence[Tensor], decoders: Sequence[Tables]
) -> Float[Tensor, "layer token d_model"]:
    """What the active features write, by dense products: the reference for :func:`decode`."""
    out = [values[0].new_zeros(active[0].n_tokens, decoders[0][0].shape[1]) for _ in active]
    for layer, (pairs, a, tables) in enumerate(zip(active, values, decoders, strict=True)):
        for target, table in enumerate(tables, layer):
            out[target] = out[target] + pairs.fill(a) @ table
    return torch.stack(out)
