"""Terms of the loss besides the squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_attribution.training.sparse import Active, Tables, written_norm


class JumpGate(torch.autograd.Function):
    """JumpReLU with straight-through gradients: pre where pre > threshold, else 0.

    The threshold's gradient is −threshold/ε where |pre − threshold| < ε/2, else 0 (Rajamanoharan et
    al. 2024, eq. 11); the pre-activation's is that of the value.
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Values [active] from pre-activations and thresholds [active]."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of pre-activations and thresholds."""
        (pre, threshold), grad = ctx.saved_tensors, grads[0]
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return grad * (pre > threshold), -grad * threshold / ctx.bandwidth * near, None


class MeanSquare(torch.autograd.Function):
    """Mean square of each layer's error, [layer] from [layer, token, d_model], as a function of the
    reconstruction: in one pass over the error, and one more for the gradient, which takes the
    error's place."""

    @staticmethod
    def forward(ctx: Any, recon: Tensor, error: Tensor) -> Tensor:
        """``error``: the reconstruction less what was wanted, already computed."""
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error, dim=(1, 2)).square() / recon[0].numel()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the reconstruction."""
        (error,) = ctx.saved_tensors
        return error.mul_((grads[0] * 2 / error[0].numel())[:, None, None]), None


def tanh_penalty(
    ats: list[Active], acts: list[Tensor], decoders: Sequence[Tables], scale: float
) -> Tensor:
    """Mean over tokens and layers of Σ tanh(scale · ‖W_dec,i‖ · a_i), the norm taken over all that
    feature i writes (methods paper)."""
    total = torch.zeros((), device=acts[0].device)
    for at, a, tables in zip(ats, acts, decoders, strict=True):
        norm = written_norm(tables)
        total = total + torch.tanh(scale * norm[at.feature] * a).sum()
    return total / (ats[0].n_tokens * len(ats))


def relative_error(made: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """Mean over layers of the squared error as a share of ``size`` [layer]; the others are
    [layer, token, d_model]."""
    return ((wanted - made).square().mean((1, 2)) / size.clamp(min=1e-12)).mean()
