"""Choose the precision that a model computes in."""

from __future__ import annotations

import copy
from typing import Any

import torch


def compute_in_fp32(model: Any) -> Any:
    """Return the model, or on a CPU a copy in fp32 if its weights are bf16 or fp16: CPUs without
    half-precision units are hundreds of times slower in them, and a graph would inherit their
    rounding."""
    weights = next(iter(model.parameters()), None)
    if weights is None or weights.device.type != "cpu":
        return model
    if weights.dtype not in (torch.bfloat16, torch.float16):
        return model
    converted = copy.deepcopy(model)
    converted.cfg.dtype = torch.float32
    return converted.to(torch.float32)
