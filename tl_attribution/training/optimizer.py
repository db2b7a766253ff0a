"""Adam with the run's schedule and clipping, the same for one process or many."""

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
    """Updates a trainee's weights."""

    def __init__(self, trainee: TrainingTranscoder, team: ProcessGrid) -> None:
        self.trainee, self.team, self.config = trainee, team, trainee.config
        betas = (self.config.beta1, self.config.beta2)
        self.adam = torch.optim.Adam(
            trainee.parameters(), lr=self.config.peak_rate, betas=betas, fused=True
        )

    def update(self, loss: Tensor, step: int) -> float:
        """One step down the gradient of ``loss``; returns the gradient's norm before clipping. The
        weights are left as they are if it is not finite."""
        loss.backward()
        self.team.average_gradients(self.trainee.parameters())
        norm = self._clip()
        if math.isfinite(norm):
            self.adam.param_groups[0]["lr"] = self.config.rate_at(step)
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> float:
        """Scale the gradient down to the largest allowed norm; returns what it was."""
        squares = torch.zeros(2, device=self.team.device)
        for name, p in self.trainee.named_parameters():
            if p.grad is not None:
                divided = self.trainee.sharded(name) is not None
                squares[int(divided)] += p.grad.norm().square()
        norm = float((squares[0] + self.team.total(squares[1], FEATURES)).sqrt())
        if math.isfinite(norm) and norm > self.config.clip:
            grads = [p.grad for p in self.trainee.parameters() if p.grad is not None]
            for grad in grads:
                grad *= self.config.clip / norm
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name, whole whatever the number of processes; every process takes
        part."""
        out: dict[str, Tensor] = {}
        for name, parameter in self.trainee.named_parameters():
            state = self.adam.state[parameter]
            parts = {"": parameter.detach(), **{f":{m}": state[m] for m in MOMENTS if m in state}}
            dim = self.trainee.sharded(name)
            for kind, tensor in parts.items():
                out[name + kind] = tensor if dim is None else self.team.full(tensor, dim)
        return out

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take over what :meth:`tensors` gave after ``step`` updates. Raises FormatError if that
        was in another version, whose weights are called otherwise."""
        for name, parameter in self.trainee.named_parameters():
            if name not in tensors:
                raise FormatError(
                    f"the checkpoint holds no {name}: another version of tl-attribution wrote it; "
                    "go on with that version, or start anew with --overwrite"
                )
            part = self._part(self.trainee.sharded(name))
            parameter.data.copy_(part(tensors[name]))
            if f"{name}:{MOMENTS[0]}" in tensors:
                counted = torch.tensor(float(step), device=parameter.device)
                moments = {m: part(tensors[f"{name}:{m}"]) for m in MOMENTS}
                self.adam.state[parameter] = {"step": counted, **moments}

    def _part(self, dim: int | None) -> Callable[[Tensor], Tensor]:
        return (lambda t: t) if dim is None else (lambda t: self.team.local(t, dim))
