"""Looking at a model's tensors: where weights are, what hooks hold, and whether it is finite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_attribution.errors import FormatError, UnsupportedModelError


class _AllSeen(Exception):  # not an error
    """Every hook that was asked for has been passed."""


def look(model: Any, token_ids: Int[Tensor, "row position"], hooks: set[str]) -> dict[str, Tensor]:
    """What each hook holds, its first two axes row and position.

    The run is left at the last of the hooks: the logits of many rows are larger than all that is
    read, and TransformerBridge's ``stop_at_layer`` cannot stop after the last block. Raises
    UnsupportedModelError for a hook that is never passed.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any = None) -> None:
            found[name] = tensor.detach()
            if len(found) == len(hooks):
                raise _AllSeen

        return hook

    ids = token_ids.to(next(iter(model.parameters())).device)
    with torch.no_grad(), suppress(_AllSeen):
        model.run_with_hooks(
            ids, fwd_hooks=[(name, keep(name)) for name in sorted(hooks)], return_type=None
        )
    if lacking := sorted(hooks - set(found)):
        raise UnsupportedModelError(
            f"{model.cfg.model_name} never passes the hooks {', '.join(lacking[:4])}, which hold "
            "what its MLPs read or write"
        )
    return found


def only_place(name: str, model: Any) -> tuple[torch.dtype, torch.device]:
    """The weights' dtype and device. Raises UnsupportedModelError if they are on several."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"{name} is on several devices: {', '.join(devices)}; only a model on one device can "
            "be traced: load it without n_devices and without a device map, or move all of it by "
            "model.to(device)"
        )
    weight = next(iter(model.parameters()))
    return weight.dtype, weight.device


def check_finite(name: str, logits: Tensor, found: dict[str, Tensor]) -> None:
    """Raises FormatError if the logits, or what hooks hold, are not finite."""
    bad = sorted(hook for hook, tensor in found.items() if not tensor.isfinite().all())
    if bad or not logits.isfinite().all():
        where = ", ".join(bad[:3]) or "the logits"
        raise FormatError(
            f"{name} gives NaN or infinite values on this prompt, at {where}; its weights are "
            "broken, or overflow in their dtype"
        )
