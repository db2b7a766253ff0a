"""Which pre-activations may be above a threshold, found by an int8 product.

Processors with int8 dot products multiply int8 matrices three to four times as fast as float32. The
rounding's error is bounded by Cauchy–Schwarz, so no entry above the threshold is missed; the few
found are then computed in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from tl_attribution.training import kernels

LARGEST = 127
"""Of the integers that stand for a number."""
SLACK = 1e-4
"""Share of |x| |w| by which float32 products may be off, many times over."""
USELESS = 0.4
"""Share of the thresholds that the bound may be, on average, before too much passes the screen."""

NARROW = 16
"""Widths under which float32 is as fast. (At width 1 the int8 product of PyTorch 2.13 is wrong.)"""


class Rounded(NamedTuple):
    """Encoder vectors in integers: w ≈ scale · integers, and each one's length."""

    integers: Int8[Tensor, "feature d_model"]
    scale: Float[Tensor, " feature"]
    length: Float[Tensor, " feature"]


def serves(x: Float[Tensor, "token d_model"]) -> bool:
    """Whether int8 products are faster for inputs like these."""
    known = getattr(torch.cpu, "_is_vnni_supported", None)
    return x.device.type == "cpu" and x.shape[1] >= NARROW and known is not None and known()


def rounded(W: Float[Tensor, "feature d_model"]) -> Rounded:
    """Each encoder vector by a scale of its own."""
    scale = W.abs().amax(1).clamp(min=1e-30) / LARGEST
    integers = (W / scale[:, None]).round_().to(torch.int8)
    return Rounded(integers, scale, W.norm(dim=1))


def above(
    x: Float[Tensor, "token d_model"], W: Rounded, least: Float[Tensor, " feature"]
) -> Bool[Tensor, "token feature"] | None:
    """Every entry at which x · w is above its feature's least, and some more; None if the bound is
    so wide that too many would pass.

    |x·w − x̂·ŵ| ≤ |x − x̂| |w| + |x̂| |w − ŵ|, and |w − ŵ| ≤ scale · √d_model / 2.
    """
    scale = x.abs().amax().clamp(min=1e-30) / LARGEST
    integers = (x / scale).round_()
    off = (x - integers * scale).norm(dim=1).amax()
    long = integers.norm(dim=1).amax() * scale
    bound = (off + SLACK * long) * W.length + long * W.scale * (x.shape[1] ** 0.5 / 2)
    if bound.mean() > USELESS * least.mean():
        return None
    limit = ((least - bound) / (scale * W.scale)).floor().clamp(-(2.0**30), 2.0**30)
    sums = torch._int_mm(integers.to(torch.int8), W.integers.T)
    return kernels.greater(sums, limit.int())
