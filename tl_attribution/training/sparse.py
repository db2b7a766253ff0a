"""Sparse products of a dictionary: their cost follows the active features, not the width.

What features write and the gradients of weights are products with a sparse matrix, the gradients of
values some entries of a dense product. PyTorch has a library's kernel for the former (cuSPARSE on a
GPU, MKL on Intel's processors, FBGEMM on others), and one for the latter.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from tl_attribution.training import kernels

DENSE_ABOVE = {"library": 0.1, "bags": 0.4}
"""Share of active entries from which dense products are faster than sparse ones, by who makes the
sparse ones: MKL or cuSPARSE, or PyTorch's ``embedding_bag``."""

Tables = Sequence[Float[Tensor, "feature d_model"]]
"""The decoder of one layer: what its features write to that layer, and to each one after it. A
table alone fits a cache."""


class Active(NamedTuple):
    """Which features of one layer are active on which tokens, ordered by token.

    ``order`` sorts the entries by feature, ``sorted_token`` are their tokens then; the starts say
    where each token's entries begin, each feature's among the sorted ones, and where the last end.
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
        """Whether there are so many entries that dense products are faster."""
        share = DENSE_ABOVE["bags" if _in_bags(self.token) else "library"]
        return len(self.token) > share * self.n_tokens * self.n_features

    def fill(self, values: Float[Tensor, " active"]) -> Float[Tensor, "token feature"]:
        """The entries as a dense matrix, zero elsewhere."""
        out = values.new_zeros(self.n_tokens, self.n_features)
        out[self.token, self.feature] = values
        return out

    def by_token(self, values: Float[Tensor, " active"]) -> Matrix:
        """The entries as a matrix [token, feature], sparse, or dense where that is faster."""
        if self.dense:
            return self.fill(values)
        return Sparse(self.token_start, self.feature, values, self.n_features).matrix()

    def by_feature(self, values: Float[Tensor, " active"]) -> Matrix:
        """The same, transposed."""
        return self.fill(values).T if self.dense else self.sparse_by_feature(values).matrix()

    def sparse_by_feature(self, values: Float[Tensor, " active"]) -> Sparse:
        """The same, sparse in any case."""
        sorted_values = values.index_select(0, self.order)
        return Sparse(self.feature_start, self.sorted_token, sorted_values, self.n_tokens)


class Sparse(NamedTuple):
    """A sparse matrix: where each row begins, and where the last ends, and each entry's column and
    value."""

    start: Int[Tensor, " row+1"]
    column: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    width: int

    def matrix(self) -> Matrix:
        """In the form that is multiplied fastest: this, or PyTorch's."""
        return self if _in_bags(self.value) else self.csr()

    def csr(self) -> Float[Tensor, "row column"]:
        """As PyTorch's sparse tensor."""
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
        """The product with a table: sums over bags of its rows."""
        # Detached: with a gradient to come embedding_bag makes what only its own backward needs.
        return embedding_bag(
            self.column,
            table.detach(),
            self.start,
            mode="sum",
            per_sample_weights=self.value.detach(),
            include_last_offset=True,
        )


Matrix = Tensor | Sparse
"""Sparse or dense."""


def _in_bags(entries: Tensor) -> bool:
    """Whether sparse products are faster as sums over bags of rows."""
    return entries.device.type == "cpu" and not kernels.mkl()


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
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def product(matrix: Matrix, table: Float[Tensor, "inner d"]) -> Float[Tensor, "row d"]:
    """A matrix times a table."""
    if isinstance(matrix, Sparse):
        return matrix.times(table)
    # Without MKL, older versions of PyTorch multiply by beta what they find in the memory.
    room = table.new_empty if torch.backends.mkl.is_available() else table.new_zeros
    out = room(matrix.shape[0], table.shape[1])
    return torch.addmm(out, matrix, table, beta=0, out=out)


def _add(out: Tensor, matrix: Matrix, table: Tensor) -> None:
    if isinstance(matrix, Sparse):
        out += matrix.times(table)
    else:
        out.addmm_(matrix, table)


def products(at: Active, rows: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
    """Σ over tables of rows[token] · table[feature] for every entry: [active] from as many
    [token, d] as [feature, d]."""
    pairs = list(zip(rows, tables, strict=True))
    if at.dense:
        total = rows[0].new_zeros(at.n_tokens, at.n_features)
        for row, table in pairs:
            total.addmm_(row, table.T)
        return total[at.token, at.feature]
    # By feature, a table is read once from its beginning to its end, and the smaller rows stay in
    # the cache.
    found = at.sparse_by_feature(rows[0].new_zeros(len(at.token))).csr()
    for row, table in pairs:
        found = torch.sparse.sampled_addmm(found, table, row.T)
    values = found.values()
    return torch.empty_like(values).index_copy_(0, at.order, values)


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
        return None, None, product(at.by_feature(grad), x), bias, None


def written_norm(tables: Tables) -> Float[Tensor, " feature"]:
    """Length of all that each feature writes."""
    return torch.stack([table.norm(dim=1) for table in tables], dim=1).norm(dim=1)


class Decode(torch.autograd.Function):
    """What the active features of all layers write, [layer, token, d_model].

    Takes the entries of every layer, the number of its tables and the room for the result (in a
    tuple, as autograd would track a tensor), then each layer's values [active], then all tables of
    the first layer, of the second, and so on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        ats: tuple[Active, ...],
        written: tuple[int, ...],
        room: tuple[Tensor],
        *tensors: Tensor,
    ) -> Tensor:
        """Sum over source layers, each written to its own and later layers, put into ``room``."""
        ctx.ats, ctx.written = ats, written
        ctx.save_for_backward(*tensors)
        values, decoders = _by_layer(tensors, written)
        out = room[0].detach().zero_()
        for layer, (at, a, tables) in enumerate(zip(ats, values, decoders, strict=True)):
            matrix = at.by_token(a)
            for to, table in enumerate(tables, layer):
                _add(out[to], matrix, table)
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
            matrix = at.by_feature(a)
            to_tables += [product(matrix, row) for row in rows]
        return None, None, None, *to_values, *to_tables


def _by_layer(
    tensors: Sequence[Tensor], written: Sequence[int]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Each layer's values, and each layer's tables."""
    rest = iter(tensors)
    values = list(islice(rest, len(written)))
    return values, [list(islice(rest, n)) for n in written]


def decode(
    ats: Sequence[Active],
    values: Sequence[Tensor],
    decoders: Sequence[Tables],
    room: Float[Tensor, "layer token d_model"] | None = None,
) -> Float[Tensor, "layer token d_model"]:
    """What the active features write: see :class:`Decode`, the dense product's equal. With ``room``
    it takes the place of what is there."""
    if room is None:
        room = values[0].new_empty(len(ats), ats[0].n_tokens, decoders[0][0].shape[1])
    written = tuple(len(tables) for tables in decoders)
    return Decode.apply(tuple(ats), written, (room,), *values, *chain.from_iterable(decoders))


def decode_dense(
    ats: Sequence[Active], values: Sequence[Tensor], decoders: Sequence[Tables]
) -> Float[Tensor, "layer token d_model"]:
    """The same by dense products: slow, obvious, and the reference in tests."""
    out = [values[0].new_zeros(ats[0].n_tokens, decoders[0][0].shape[1]) for _ in ats]
    for layer, (at, a, tables) in enumerate(zip(ats, values, decoders, strict=True)):
        for to, table in enumerate(tables, layer):
            out[to] = out[to] + at.fill(a) @ table
    return torch.stack(out)
