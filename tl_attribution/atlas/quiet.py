"""Atlas's third stage: MLPs that are silent where they have nothing to say.

Nothing in the usual loss keeps an MLP from writing what is never read, at every position, and a
dictionary has to spend features on it. Here what every neuron writes has a price, so that the few
that are left carry the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

PRICE = 0.1
"""Weight of the penalty beside the next-token loss."""


class Writing:
    """Σ over neurons of activation · ‖what the neuron writes‖, a token; mean over layers of what it
    is relative to the first batch."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.mlps = [block.mlp for block in model.transformer.h]
        self.active: list[Tensor] = [torch.empty(0)] * len(self.mlps)
        self.first: Tensor | None = None
        self.hooks = [
            mlp.act.register_forward_hook(lambda _m, _i, out, at=layer: self._keep(at, out))
            for layer, mlp in enumerate(self.mlps)
        ]

    def _keep(self, layer: int, out: Tensor) -> None:
        self.active[layer] = out

    def penalty(self, real: Tensor) -> Tensor:
        """Of the last forward pass, over the tokens that are ``real`` [sentence, position]."""
        sizes = []
        for mlp, active in zip(self.mlps, self.active, strict=True):
            written = (active * mlp.c_proj.weight.norm(dim=1)).sum(-1)
            sizes.append((written * real).sum() / real.sum())
        size = torch.stack(sizes)
        if self.first is None:
            self.first = size.detach()
        return PRICE * (size / self.first).mean()

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self.hooks:
            hook.remove()
