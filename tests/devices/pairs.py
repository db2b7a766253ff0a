"""One model on the processor and on a device, and how near their numbers are to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.pretend_device import NAME


@dataclass(frozen=True)
class Pair:
    """The same weights twice: ``here`` on the processor, ``there`` on ``device``."""

    here: Any
    there: Any
    device: str

    def assert_same(self, there: torch.Tensor, here: torch.Tensor) -> None:
        """A pretend device computes as the processor does; a real one rounds in its own way."""
        size = here.abs().max().clamp(min=1) if here.numel() else 1.0
        within = 1e-6 if self.device == NAME else 1e-4
        assert torch.allclose(there.cpu(), here, rtol=0, atol=float(size * within))
