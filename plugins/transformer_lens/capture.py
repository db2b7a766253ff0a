"""Capture activations at hooks for a batch; check that they are finite, and where weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_attribution.errors import FormatError, UnsupportedModelError


class _AllCaptured(Exception):  # not an error: ends the forward pass
    """Raised by the last of the hooks to be captured."""


def capture(
    model: Any, token_ids: Int[Tensor, "row position"], hooks: set[str]
) -> dict[str, Tensor]:
    """Capture the activation at each hook, its first two axes row and position.

    The forward pass ends at the last of the hooks: the logits of many rows are larger than
    everything captured, and TransformerBridge's ``stop_at_layer`` cannot stop after the last block.
    Raises UnsupportedModelError for a hook that the forward pass does not reach.
    """
    captured: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any = None) -> None:
            captured[name] = tensor.detach()
            if len(captured) == len(hooks):
                raise _AllCaptured

        return hook

    ids = token_ids.to(next(iter(model.parameters())).device)
    with torch.no_grad(), suppress(_AllCaptured):
        model.run_with_hooks(
            ids, fwd_hooks=[(name, keep(name)) for name in sorted(hooks)], return_type=None
        )
    if lacking := sorted(hooks - set(captured)):
        raise UnsupportedModelError(
            f"{model.cfg.model_name} never passes the hooks {', '.join(lacking[:4])}, which hold "
            "what its MLPs read or write"
        )
    return captured


def dtype_and_device(name: str, model: Any) -> tuple[torch.dtype, torch.device]:
    """The weights' dtype and device. Raises UnsupportedModelError for several devices."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"{name} is on several devices: {', '.join(devices)}; only a model on one device can "
            "be traced: load it without n_devices and without a device map, or move all of it by "
            "model.to(device)"
        )
    weight = next(iter(model.parameters()))
    return weight.dtype, weight.device


def check_finite(name: str, logits: Tensor, activations: Mapping[str, Tensor]) -> None:
    """Raise FormatError if the logits or the activations at hooks are not finite."""
    bad = sorted(hook for hook, tensor in activations.items() if not tensor.isfinite().all())
    if bad or not logits.isfinite().all():
        where = ", ".join(bad[:3]) or "the logits"
        raise FormatError(
            f"{name} gives NaN or infinite values on this prompt, at {where}; its weights are "
            "broken, or overflow in their dtype"
        )
