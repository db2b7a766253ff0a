"""Adam with the run's learning rate schedule and gradient clipping, for one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tl_attribution.errors import FormatError
from tl_attribution.training.distributed import FEATURES, ProcessGrid
from tl_attribution.training.model import TrainingTranscoder

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """Updates the weights of a transcoder."""

    def __init__(self, transcoder: TrainingTranscoder, grid: ProcessGrid) -> None:
        self.transcoder, self.grid, self.config = transcoder, grid, transcoder.config
        betas = (self.config.beta1, self.config.beta2)
        self.adam = torch.optim.Adam(
            transcoder.parameters(), lr=self.config.peak_learning_rate, betas=betas, fused=True
        )

    def update(self, loss: Tensor, step: int) -> float:
        """Take one step along the gradient of ``loss``; returns the gradient's norm before
        clipping. The weights do not change if it is not finite."""
        loss.backward()
        self.grid.average_gradients(self.transcoder.parameters())
        norm = self._clip()
        if math.isfinite(norm):
            self.adam.param_groups[0]["lr"] = self.config.learning_rate_at(step)
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> float:
        """Scale the gradient down to the maximum norm; returns its norm before."""
        squares = torch.zeros(2, device=self.grid.device)
        for name, p in self.transcoder.named_parameters():
            if p.grad is not None:
                divided = self.transcoder.sharded(name) is not None
                squares[int(divided)] += p.grad.norm().square()
        norm = float((squares[0] + self.grid.sum(squares[1], FEATURES)).sqrt())
        if math.isfinite(norm) and norm > self.config.clip:
            grads = [p.grad for p in self.transcoder.parameters() if p.grad is not None]
            for grad in grads:
                grad *= self.config.clip / norm
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name, in full whatever the number of processes; every process
        must call it."""
        out: dict[str, Tensor] = {}
        for name, parameter in self.transcoder.named_parameters():
            state = self.adam.state[parameter]
            parts = {"": parameter.detach(), **{f":{m}": state[m] for m in MOMENTS if m in state}}
            dim = self.transcoder.sharded(name)
            for suffix, tensor in parts.items():
                out[name + suffix] = tensor if dim is None else self.grid.full(tensor, dim)
        return out

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore what :meth:`tensors` returned after ``step`` updates. Raises FormatError if
        another version wrote it, whose weights have other names."""
        for name, parameter in self.transcoder.named_parameters():
            if name not in tensors:
                raise FormatError(
                    f"the checkpoint has no tensor {name}: another version of tl-attribution wrote "
                    "it; resume with that version, or start again with --overwrite"
                )
            local = self._local(self.transcoder.sharded(name))
            parameter.data.copy_(local(tensors[name]))
            if f"{name}:{MOMENTS[0]}" in tensors:
                updates = torch.tensor(float(step), device=parameter.device)
                moments = {m: local(tensors[f"{name}:{m}"]) for m in MOMENTS}
                self.adam.state[parameter] = {"step": updates, **moments}

    def _local(self, dim: int | None) -> Callable[[Tensor], Tensor]:
        return (lambda t: t) if dim is None else (lambda t: self.grid.local(t, dim))
