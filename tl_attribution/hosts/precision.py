"""The precision that a model is computed in."""

from __future__ import annotations

import copy
from typing import Any

import torch


def compute_in_fp32(model: Any) -> Any:
    """The model itself, or on a CPU a copy in fp32 where its weights are bf16 or fp16: processors
    without such units are hundreds of times slower in them, and a graph would carry their rounding.
    """
    weights = next(iter(model.parameters()), None)
    if weights is None or weights.device.type != "cpu":
        return model
    if weights.dtype not in (torch.bfloat16, torch.float16):
        return model
    converted = copy.deepcopy(model)
    converted.cfg.dtype = torch.float32
    return converted.to(torch.float32)
