"""Activation functions of dictionaries, and pointwise activation functions of MLPs.

A dictionary's activation maps pre-activations to activations that are either zero or equal to the
pre-activation, so that an active feature is affine in what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Union

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tl_attribution.errors import FormatError, InputError, NotFoundError, nearest

Pre = Float[Tensor, "position feature"]


@dataclass(frozen=True)
class ReLU:
    """max(pre, 0)."""

    def __call__(self, pre: Pre, layer: int) -> Pre:
        """Activations of one layer."""
        del layer
        return pre.relu()


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """pre where pre > its feature's ``threshold``, else 0 (Rajamanoharan et al. 2024)."""

    threshold: Float[Tensor, "layer feature"]

    def __call__(self, pre: Pre, layer: int) -> Pre:
        """Activations of one layer."""
        return pre * (pre > self.threshold[layer].to(pre))


@dataclass(frozen=True, eq=False)
class TopK:
    """ReLU of the k largest pre-activations of a token and layer (Gao et al. 2024).

    With ``rank``, the k largest by pre-activation times ``rank``. ``signed``: without the ReLU, as
    in circuit-tracer.
    """

    k: int
    rank: Float[Tensor, "layer feature"] | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, pre: Pre, layer: int) -> Pre:
        """Activations of one layer. Raises InputError if k exceeds the number of features."""
        if self.k > pre.shape[-1]:
            raise InputError(f"k={self.k} is larger than the {pre.shape[-1]} features of a layer")
        ranked = pre if self.rank is None else pre * self.rank[layer].to(pre)
        largest = ranked.topk(self.k, dim=-1).indices
        kept = pre.gather(-1, largest)
        return torch.zeros_like(pre).scatter_(-1, largest, kept if self.signed else kept.relu())


@dataclass(frozen=True)
class BatchTopK:
    """Trained with the k largest pre-activations per token, chosen over a batch; at inference one
    threshold takes the place of the batch (Bussmann et al. 2024)."""

    k: int
    threshold: float

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, pre: Pre, layer: int) -> Pre:
        """Activations of one layer."""
        del layer
        return pre.relu() * (pre > self.threshold)


Activation = Union[ReLU, JumpReLU, TopK, BatchTopK]  # noqa: UP007  # evaluated on Python 3.10
ActivationName = Literal["relu", "jumprelu", "topk", "batchtopk"]


class ActivationConfig(TypedDict, total=False):
    """An activation in a config file; the thresholds of a JumpReLU and the ranks of a TopK are
    tensors beside it."""

    name: ActivationName
    k: int
    """Of topk and batchtopk."""
    threshold: float
    """Of batchtopk."""
    signed: bool
    """Of topk; False if it is missing."""


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")


def to_config(activation: Activation) -> ActivationConfig:
    """Convert an activation for a config file."""
    match activation:
        case ReLU():
            return {"name": "relu"}
        case JumpReLU():
            return {"name": "jumprelu"}
        case TopK(k, _, signed):
            topk: ActivationConfig = {"name": "topk", "k": k}
            return {**topk, "signed": True} if signed else topk
        case BatchTopK(k, threshold):
            return {"name": "batchtopk", "k": k, "threshold": threshold}


def from_config(
    config: dict[str, Any], threshold: Tensor | None, rank: Tensor | None = None
) -> Activation:
    """Inverse of :func:`to_config`. Raises FormatError for an unknown or incomplete config."""
    match config:
        case {"name": "relu"}:
            return ReLU()
        case {"name": "jumprelu"} if threshold is not None:
            return JumpReLU(threshold)
        case {"name": "topk", "k": int(k)}:
            return TopK(k, rank, config.get("signed") is True)
        case {"name": "batchtopk", "k": int(k), "threshold": float(value)}:
            return BatchTopK(k, value)
    raise FormatError(
        f"activation {config} is unknown or incomplete; expected relu, jumprelu with thresholds, "
        "topk with k, or batchtopk with k and threshold"
    )


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_fast,
    "silu": F.silu,
    "swish": F.silu,
}
"""Pointwise MLP activations by the names that model configs use."""


def pointwise(name: str) -> Callable[[Tensor], Tensor]:
    """An MLP's activation function by name. Raises NotFoundError for a name that is not in
    :data:`POINTWISE`."""
    if name not in POINTWISE:
        raise NotFoundError(f"MLP activation {name!r} is not supported: {nearest(name, POINTWISE)}")
    return POINTWISE[name]
