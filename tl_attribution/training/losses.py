"""Loss functions of the training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.training.sparse import Active, Tables, decoder_norm


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
    """Mean squared error of each layer, [layer], as a function of the reconstruction
    [layer, token, d_model]: one pass over the error, and one more for the gradient, which is
    written over the error."""

    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, error: Tensor) -> Tensor:
        """``error``: the reconstruction minus the outputs, already computed."""
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error, dim=(1, 2)).square() / reconstruction[0].numel()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the reconstruction."""
        (error,) = ctx.saved_tensors
        return error.mul_((grads[0] * 2 / error[0].numel())[:, None, None]), None


def tanh_penalty(
    active: Sequence[Active],
    activations: Sequence[Tensor],
    decoders: Sequence[Tables],
    scale: float,
) -> Float[Tensor, ""]:
    """Mean over tokens and layers of Σ tanh(scale · ‖W_dec,i‖ · a_i), the norm taken over all
    layers that feature i writes to (methods paper)."""
    total = torch.zeros((), device=activations[0].device)
    for pairs, a, tables in zip(active, activations, decoders, strict=True):
        norm = decoder_norm(tables)
        total = total + torch.tanh(scale * norm[pairs.feature] * a).sum()
    return total / (active[0].n_tokens * len(active))


def relative_error(
    reconstruction: Float[Tensor, "layer token d_model"],
    target: Float[Tensor, "layer token d_model"],
    mean_square: Float[Tensor, " layer"],
) -> Float[Tensor, ""]:
    """Mean over layers of the squared error divided by ``mean_square``."""
    error = (target - reconstruction).square().mean((1, 2))
    return (error / mean_square.clamp(min=1e-12)).mean()
