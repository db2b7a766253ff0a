"""Finding pre-activations above a threshold: every way against the dense product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tl_attribution.training import kernels, screen, search
from tl_attribution.training.distributed import Team

ALONE = Team(torch.device("cpu"))


def case(seed: int, tokens: int, features: int, width: int, tail: float) -> tuple[Tensor, ...]:
    """Inputs with outliers as large as real ones', encoders of unlike lengths, biases."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=rng)
    x[:, 0] *= tail
    W = torch.randn(features, width, generator=rng) * torch.rand(features, 1, generator=rng)
    return x, W, torch.randn(features, generator=rng) * 0.1


@given(
    st.integers(0, 999),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(screen.NARROW, 70),
    st.sampled_from([0.0, 1.0, 30.0]),
    st.floats(0.0, 6.0),
)
def test_the_screen_misses_nothing(
    seed: int, tokens: int, features: int, width: int, tail: float, threshold: float
) -> None:
    x, W, b = case(seed, tokens, features, width, tail)
    least = threshold * W.norm(dim=1) - b
    passed = screen.above(x, screen.rounded(W), least)
    if passed is not None:
        assert not ((x @ W.T > least) & ~passed).any()


def test_the_screen_lets_little_else_pass() -> None:
    x, W, b = case(0, 512, 1024, 128, 1.0)
    least = 3.0 * W.norm(dim=1) - b
    passed = screen.above(x, screen.rounded(W), least)
    assert passed is not None
    wanted = (x @ W.T > least).sum()
    assert 500 < wanted < passed.sum() < 4 * wanted


def test_a_screen_that_would_let_everything_pass_is_not_used() -> None:
    x, W, b = case(0, 64, 64, 16, 1000.0)
    assert screen.above(x, screen.rounded(W), 3.0 * W.norm(dim=1) - b) is None


def test_empty_rows_pass_no_threshold() -> None:
    passed = screen.above(torch.zeros(2, 8), screen.rounded(torch.zeros(8, 8)), torch.ones(8))
    assert passed is not None
    assert not passed.any()


@pytest.mark.parametrize("screened", [True, False])
@pytest.mark.parametrize("at_once", [1, 200, 1 << 21])
@pytest.mark.parametrize("k", [None, 5])
def test_places_and_values_are_those_of_the_dense_product(
    screened: bool, at_once: int, k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "serves", lambda x: screened)
    monkeypatch.setitem(search.AT_ONCE, "cpu", at_once)
    x, W, b = case(1, 96, 50, 64, 3.0)
    least = 2.0 * W.norm(dim=1)
    at, values = search.above(x, search.Encoder(W, b, "float32"), least, k, ALONE)
    dense = x @ W.T + b
    if k is None:
        expected = dense > least
    else:
        expected = torch.zeros_like(dense, dtype=torch.bool).scatter_(
            1, dense.topk(k).indices, True
        )
    assert at.tolist() == expected.flatten().nonzero()[:, 0].tolist()
    torch.testing.assert_close(values, dense[expected])


@given(st.integers(0, 999), st.integers(1, 300), st.sampled_from([1, 7, 1 << 16, 1 << 20]))
def test_kernels_equal_pytorch(seed: int, n: int, below: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(below, (n,), generator=rng)
    assert torch.equal(kernels.order(index, below), torch.argsort(index, stable=True))
    values = torch.randn(n, generator=rng)
    for rank in (1, n // 2 + 1, n):
        assert kernels.of_rank(values, rank) == float(values.sort(descending=True).values[rank - 1])
    mask = torch.rand(n, 3, generator=rng) < 0.1
    assert torch.equal(kernels.places(mask), mask.flatten().nonzero()[:, 0])
    rows = torch.randn(n, 3, generator=rng)
    assert torch.equal(kernels.greater(rows, rows[0]), rows > rows[0])
