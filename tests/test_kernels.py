"""Kernels equal PyTorch's own operations, whichever library multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_attribution import kernels


@given(st.integers(0, 999), st.integers(1, 300), st.sampled_from([1, 7, 1 << 16, 1 << 20]))
def test_kernels_equal_pytorch(seed: int, n: int, below: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(below, (n,), generator=rng)
    assert torch.equal(kernels.stable_argsort(index, below), torch.argsort(index, stable=True))
    values = torch.randn(n, generator=rng)
    for rank in (1, n // 2 + 1, n):
        assert kernels.kth_largest(values, rank) == float(
            values.sort(descending=True).values[rank - 1]
        )
    mask = torch.rand(n, 3, generator=rng) < 0.1
    flat, token, feature = kernels.nonzero(mask)
    assert torch.equal(flat, mask.flatten().nonzero()[:, 0])
    assert torch.equal(torch.stack([token, feature], 1), mask.nonzero())
    rows = torch.randn(n, 3, generator=rng)
    for threshold in (rows[:1], rows[:, :1]):
        assert torch.equal(kernels.greater(rows, threshold), rows > threshold)
    for k in (1, 2, 3, 9):
        best = kernels.topk_values(rows, k).sort(descending=True).values
        assert torch.equal(best, rows.sort(descending=True).values[:, :k])


@pytest.mark.parametrize("mkl", [True, False], ids=["MKL", "oneDNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_equal_pytorch(
    dtype: torch.dtype, mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "use_mkl", lambda: mkl)
    monkeypatch.setattr(kernels, "SMALL_PRODUCT", 0)
    x, W = torch.randn(4, 9, 33, dtype=dtype)[:, 2], torch.randn(33, 7, dtype=dtype).T
    expected = (x[:, :, None] * W.T[None]).sum(1)
    torch.testing.assert_close(kernels.product(x, W), expected)
    wide = torch.ones(4, 20, dtype=dtype)
    kernels.add_product(wide[:, 5:12], x, W)
    torch.testing.assert_close(wide[:, 5:12], expected + 1)
    assert (wide[:, :5] == 1).all()
    assert (wide[:, 12:] == 1).all()


@pytest.mark.parametrize(
    ("maker", "intel"), [("GenuineIntel", True), ("AuthenticAMD", False), ("ARM", False)]
)
def test_mkl_serves_the_processors_of_its_maker(
    maker: str, intel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text(f"processor\t: 0\nvendor_id\t: {maker}\nflags\t\t: avx512f\n")
    monkeypatch.setattr(kernels, "CPU_INFO", about)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "use_mkl", kernels.use_mkl.__wrapped__)  # without its cache
    assert kernels.use_mkl() == intel
    assert kernels.use_onednn() == (not intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not kernels.use_mkl()
    assert not kernels.use_onednn(), "products are as PyTorch has them"
