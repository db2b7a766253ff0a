"""Where tensors are: which devices there are, and how much memory they have left."""

from __future__ import annotations

import psutil
import torch

from tl_attribution.errors import InputError


def available() -> list[str]:
    """``cpu`` and this machine's accelerators (``cuda:0``, ``mps:0``, …)."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cuda", "xpu", "mps", *([accelerator.type] if accelerator is not None else [])]
    there = ["cpu"]
    for kind in dict.fromkeys(kinds):
        module = torch.get_device_module(kind)
        if module.is_available():
            there += [f"{kind}:{i}" for i in range(module.device_count())]
    return there


def check(device: str | torch.device) -> torch.device:
    """The device of this name. Raises InputError, naming those there are, if it is not there."""
    there = available()
    try:
        known = torch.device(device)
    except RuntimeError:
        known = None
    if known is None or (known.type != "cpu" and f"{known.type}:{known.index or 0}" not in there):
        raise InputError(f"there is no device {str(device)!r}; this machine has {', '.join(there)}")
    return known


def free_memory(device: torch.device) -> int:
    """Free bytes of a device, with what PyTorch keeps there for later use; of the machine's memory
    for the processor and for devices that share it with the processor."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    if module is None or not hasattr(module, "mem_get_info"):
        return psutil.virtual_memory().available
    kept = module.memory_reserved(device) - module.memory_allocated(device)
    return module.mem_get_info(device)[0] + kept
