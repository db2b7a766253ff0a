"""Steps that have a faster way on some processors than PyTorch's usual one."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

CPU_INFO = Path("/proc/cpuinfo")
"""Says on Linux who made the processor; elsewhere Python does."""


@cache
def mkl() -> bool:
    """Whether MKL makes PyTorch's matrix products and makes full use of this processor: on others
    than Intel's it does without AVX-512, and its sparse products are slow."""
    maker = CPU_INFO.read_text() if CPU_INFO.exists() else platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in maker


def one_dnn() -> bool:
    """Whether oneDNN should make them in MKL's place."""
    backends = torch.backends
    return backends.mkl.is_available() and backends.mkldnn.is_available() and not mkl()


def multiply(
    x: Float[Tensor, "token d_model"],
    W: Float[Tensor, "feature d_model"],
    room: Float[Tensor, "token feature"],
) -> Float[Tensor, "token feature"]:
    """``x @ W.T``; ``room`` may hold it."""
    if x.device.type == "cpu" and one_dnn():
        # Of oneDNN's products this alone, which torch.compile uses, takes tensors as they are.
        return torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], "")
    return torch.mm(x, W.T, out=room)


def greater(
    values: Num[Tensor, "token feature"], least: Num[Tensor, "#token #feature"]
) -> Bool[Tensor, "token feature"]:
    """Which values are above the least of their feature or of their token."""
    if values.device.type != "cpu":
        return values > least
    return torch.from_numpy(np.greater(values.numpy(), least.numpy()))


def order(index: Int[Tensor, " n"], below: int) -> Int[Tensor, " n"]:
    """What sorts an index whose values lie under ``below``; equal ones keep their order."""
    if index.device.type != "cpu" or below > 1 << 16:
        return torch.argsort(index, stable=True)
    short = index.numpy().astype(np.uint16)  # numpy sorts 16 bits by radix
    return torch.from_numpy(np.argsort(short, kind="stable"))


def of_rank(values: Float[Tensor, " n"], rank: int) -> float:
    """The value of number ``rank`` from the largest, which is 1."""
    place = len(values) - rank
    if values.device.type != "cpu":
        return float(values.kthvalue(place + 1).values)
    return float(np.partition(values.numpy(), place)[place])


def largest(
    values: Float[Tensor, "token column"], k: int
) -> Float[Tensor, "token {min(k,values.shape[1])}"]:
    """The k largest values of each row, or all if there are fewer; in no order."""
    rest = values.shape[1] - k
    if rest <= 0:
        return values
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).values
    return torch.from_numpy(np.partition(values.numpy(), rest, axis=1)[:, rest:])


def where(mask: Bool[Tensor, " n"]) -> Int[Tensor, " found"]:
    """Where a mask is set."""
    if mask.device.type != "cpu":
        return mask.nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def places(mask: Bool[Tensor, "token feature"]) -> tuple[Int[Tensor, " found"], ...]:
    """Where a mask is set: as if it were flat, and by token and by feature."""
    flat, width = where(mask.flatten()), mask.shape[1]
    token = flat // width if flat.device.type != "cpu" else torch.from_numpy(flat.numpy() // width)
    return flat, token, flat - token * width
