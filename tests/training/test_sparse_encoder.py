"""Finding pre-activations above a threshold: every way against the dense product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_attribution import kernels
from tl_attribution.training import sparse_encoder, thresholds
from tl_attribution.training.distributed import ProcessGrid

SINGLE_PROCESS = ProcessGrid(torch.device("cpu"))


@pytest.mark.parametrize("chunk_entries", [1, 200, 1 << 21])
@pytest.mark.parametrize("k", [None, 5, 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("features", [50, 197])
@pytest.mark.parametrize("mkl", [True, False], ids=["MKL", "oneDNN"])
def test_places_and_values_are_those_of_the_dense_product(
    chunk_entries: int,
    k: int | None,
    dtype: str,
    features: int,
    mkl: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sparse_encoder.CHUNK_ENTRIES, "cpu", chunk_entries)
    monkeypatch.setattr(kernels, "use_mkl", lambda: mkl)
    rng = torch.Generator().manual_seed(1)
    sizes = (96, 64), (features, 64), (features,)
    x, W, b = (torch.randn(*size, generator=rng) for size in sizes)
    threshold = 2.0 * W.norm(dim=1)
    token, feature, values = sparse_encoder.preactivations_above(
        x, sparse_encoder.Encoder(W, b, dtype), threshold, k, SINGLE_PROCESS
    )
    kind = getattr(torch, dtype)
    dense = (x.to(kind) @ W.to(kind).T).float() + b
    if k is None:
        expected = dense > threshold
    else:
        best = torch.zeros_like(dense, dtype=torch.bool).scatter_(1, dense.topk(k).indices, True)
        expected = best & (dense > 0)
    assert [token.tolist(), feature.tolist()] == expected.nonzero().T.tolist()
    torch.testing.assert_close(values, dense[expected])


@given(st.integers(0, 999), st.integers(1, 8), st.integers(1, 400), st.integers(1, 40))
def test_the_largest_of_each_token_are_among_the_candidates(
    seed: int, tokens: int, features: int, k: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    pre = torch.randn(tokens, features, generator=rng) + torch.randn(tokens, 1, generator=rng)
    candidates = pre > thresholds.topk_lower_bound(pre, k)
    best = pre.topk(min(k, features))
    assert (candidates.gather(1, best.indices) | (best.values <= 0)).all()
    flat, token, _ = kernels.nonzero(candidates)
    table = thresholds.padded_by_token(token, pre.flatten()[flat], tokens)
    assert torch.equal(
        thresholds.token_threshold(table, k, SINGLE_PROCESS),
        thresholds.token_threshold(pre, k, SINGLE_PROCESS),
    )
