"""Sparse products against the dense ones they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tl_attribution import kernels
from tl_attribution.training import sparse, thresholds
from tl_attribution.training.distributed import ProcessGrid

SINGLE_PROCESS = ProcessGrid(torch.device("cpu"))
SIZES = st.integers(1, 9)


def mask_and_values(seed: int, tokens: int, features: int, share: float) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, features, generator=rng)
    return torch.rand(tokens, features, generator=rng) < share, values


LIBRARIES = pytest.mark.parametrize("mkl", [True, False], ids=["MKL", "embedding_bag"])


@LIBRARIES
@given(st.integers(0, 999), SIZES, SIZES, SIZES, st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0]))
def test_every_product_equals_the_dense_one(
    mkl: bool, seed: int, tokens: int, features: int, width: int, share: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "use_mkl", lambda: mkl)
        check_products(seed, tokens, features, width, share)


def check_products(seed: int, tokens: int, features: int, width: int, share: float) -> None:
    mask, values = mask_and_values(seed, tokens, features, share)
    pairs = sparse.active_from_mask(mask)
    a = values[pairs.token, pairs.feature]
    dense = values * mask
    torch.testing.assert_close(pairs.fill(a), dense)
    table, rows = torch.randn(features, width), torch.randn(tokens, width)
    torch.testing.assert_close(sparse.product(pairs.by_token(a), table), dense @ table)
    torch.testing.assert_close(sparse.product(pairs.by_feature(a), rows), dense.T @ rows)
    torch.testing.assert_close(
        sparse.sampled_product(pairs, [rows, 2 * rows], [table, table]),
        (3 * rows @ table.T)[pairs.token, pairs.feature],
    )


@pytest.mark.parametrize("written", [(3, 2, 1), (2, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("limit", [0.0, 2.0], ids=["as dense products", "as sparse products"])
@LIBRARIES
def test_decoding_and_its_gradients_equal_the_dense_product(
    written: tuple[int, ...], limit: float, mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "use_mkl", lambda: mkl)
    monkeypatch.setattr(sparse, "DENSE_ABOVE", dict.fromkeys(sparse.DENSE_ABOVE, limit))
    active, values, decoders = [], [], []
    for layer, n in enumerate(written):
        mask, full = mask_and_values(layer, 20, 15, 0.2)
        active.append(sparse.active_from_mask(mask))
        values.append(full[active[-1].token, active[-1].feature].requires_grad_())
        decoders.append([torch.randn(15, 6, requires_grad=True) for _ in range(n)])
    weight = torch.randn(3, 20, 6)
    room = torch.full((3, 20, 6), torch.nan)
    decoded = sparse.decode(active, values, decoders, room)
    expected = sparse.decode_dense(active, values, decoders)
    torch.testing.assert_close(decoded, expected)
    assert decoded.data_ptr() == room.data_ptr()
    inputs = [*values, *(table for tables in decoders for table in tables)]
    fast = torch.autograd.grad((decoded * weight).sum(), inputs)
    slow = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


def test_entries_among_some_columns_keep_the_numbers_of_their_features() -> None:
    mask, values = mask_and_values(0, 7, 10, 0.4)
    columns = torch.tensor([1, 4, 8])
    pairs = sparse.active_from_columns(mask[:, columns], columns, 10)
    expected = torch.zeros_like(values)
    expected[:, columns] = (values * mask)[:, columns]
    torch.testing.assert_close(pairs.fill(values[pairs.token, pairs.feature]), expected)


@given(st.integers(0, 999), st.integers(0, 30), st.integers(1, 30))
def test_the_batch_threshold_is_the_rank_with_the_given_number(
    seed: int, n: int, count: int
) -> None:
    ranks = torch.randn(n, generator=torch.Generator().manual_seed(seed)).abs()
    threshold = thresholds.batch_threshold(ranks, count, SINGLE_PROCESS)
    assert (threshold is None) == (n < count)
    if threshold is not None:
        assert int((ranks >= threshold).sum()) == count


def test_ranks_that_differ_by_rounding_are_active_together() -> None:
    token, feature = torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.long)
    rank = torch.tensor([2.0, 1.0, 1.0, 0.999]) * torch.tensor([1, 1, 1 - 1e-6, 1])
    candidates = thresholds.Candidates(token, feature, rank * 3, rank, n_tokens=4, n_features=1)
    pairs, pre = candidates.above(thresholds.batch_threshold(rank, 2, SINGLE_PROCESS) or 0.0)
    assert pairs.token.tolist() == [0, 1, 2]
    assert torch.equal(pre, rank[:3] * 3)


@given(st.integers(0, 999), SIZES, SIZES, st.integers(1, 9))
def test_the_token_threshold_keeps_the_largest_of_each_token(
    seed: int, tokens: int, features: int, k: int
) -> None:
    _, pre = mask_and_values(seed, tokens, features, 0.0)
    kept = (pre >= thresholds.token_threshold(pre, k, SINGLE_PROCESS)).sum(1)
    expected = (pre > 0).sum(1).clamp(max=k)
    assert kept.tolist() == expected.tolist()
