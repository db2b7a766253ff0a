"""Kernels that are faster on some processors than PyTorch's usual ones, with the same results."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

CPU_INFO = Path("/proc/cpuinfo")
"""Names the processor's vendor on Linux; elsewhere Python's ``platform`` does."""
SMALL_PRODUCT = 1 << 21
"""Multiplications below which a matrix product stays with MKL: a call of oneDNN's takes 20 µs
longer, which is what it gains on so many at twice the speed (100 and 200 GFLOP/s)."""


@cache
def use_mkl() -> bool:
    """Whether MKL is fastest: PyTorch has it and the processor is Intel's. On other processors MKL
    does not use AVX-512, and its sparse products are slow."""
    vendor = CPU_INFO.read_text() if CPU_INFO.exists() else platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in vendor


def use_onednn() -> bool:
    """Whether dense products are faster with oneDNN than with MKL."""
    backends = torch.backends
    return backends.mkl.is_available() and backends.mkldnn.is_available() and not use_mkl()


def linear(
    x: Float[Tensor, "token d_model"],
    W: Float[Tensor, "feature d_model"],
    out: Float[Tensor, "token feature"],
) -> Float[Tensor, "token feature"]:
    """``x @ W.T``, which may be written into ``out``."""
    if x.device.type == "cpu" and use_onednn():
        # The only one of oneDNN's products (torch.compile uses it) that takes ordinary tensors.
        return torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], "")
    return torch.mm(x, W.T, out=out)


def product(
    x: Float[Tensor, "row inner"], W: Float[Tensor, "column inner"]
) -> Float[Tensor, "row column"]:
    """``x @ W.T``."""
    if _pays_onednn(x, W):
        return torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], "")
    return x @ W.T


def add_product(
    out: Float[Tensor, "row column"],
    x: Float[Tensor, "row inner"],
    W: Float[Tensor, "column inner"],
) -> None:
    """``out += x @ W.T``, in place."""
    if _pays_onednn(x, W):
        out += torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], "")
    else:
        out.addmm_(x, W.T)


def _pays_onednn(x: Tensor, W: Tensor) -> bool:
    """Whether oneDNN, which has no fp64, gains more than the time that its call takes."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] * W.numel() >= SMALL_PRODUCT
        and use_onednn()
    )


def greater(
    values: Num[Tensor, "token feature"], threshold: Num[Tensor, "#token #feature"]
) -> Bool[Tensor, "token feature"]:
    """``values > threshold``, with one threshold per feature or per token."""
    if values.device.type != "cpu":
        return values > threshold
    return torch.from_numpy(np.greater(values.numpy(), threshold.numpy()))


def stable_argsort(index: Int[Tensor, " n"], bound: int) -> Int[Tensor, " n"]:
    """Stable argsort of non-negative integers below ``bound``."""
    if index.device.type != "cpu" or bound > 1 << 16:
        return torch.argsort(index, stable=True)
    short = index.numpy().astype(np.uint16)  # numpy sorts 16 bits by radix
    return torch.from_numpy(np.argsort(short, kind="stable"))


def kth_largest(values: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest value; k = 1 is the maximum."""
    index = len(values) - k
    if values.device.type != "cpu":
        return float(values.kthvalue(index + 1).values)
    return float(np.partition(values.numpy(), index)[index])


def topk_values(
    values: Float[Tensor, "token column"], k: int
) -> Float[Tensor, "token {min(k,values.shape[1])}"]:
    """The k largest values of each row, or all if there are fewer; unsorted."""
    rest = values.shape[1] - k
    if rest <= 0:
        return values
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).values
    return torch.from_numpy(np.partition(values.numpy(), rest, axis=1)[:, rest:])


def flat_nonzero(mask: Bool[Tensor, " n"]) -> Int[Tensor, " active"]:
    """Indices at which a mask is set."""
    if mask.device.type != "cpu":
        return mask.nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def nonzero(mask: Bool[Tensor, "token feature"]) -> tuple[Int[Tensor, " active"], ...]:
    """Indices at which a mask is set: into the flattened mask, by token and by feature."""
    flat, width = flat_nonzero(mask.flatten()), mask.shape[1]
    token = flat // width if flat.device.type != "cpu" else torch.from_numpy(flat.numpy() // width)
    return flat, token, flat - token * width
