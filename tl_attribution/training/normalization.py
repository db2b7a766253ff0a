"""Normalization: each layer's inputs and outputs are centered and divided by one scale."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.dictionaries.transcoder import LayerWeights
from tl_attribution.training.buffer import Batch
from tl_attribution.training.distributed import DATA, ProcessGrid


class Normalization(NamedTuple):
    """Means [layer, d_model] and scales [layer]: the root mean variance of the coordinates."""

    input_mean: Float[Tensor, "layer d_model"]
    input_scale: Float[Tensor, " layer"]
    output_mean: Float[Tensor, "layer d_model"]
    output_scale: Float[Tensor, " layer"]

    def normalize(self, batch: Batch, out: Batch | None = None) -> Batch:
        """The batch in normalized units, written over the batch ``out`` if there is one: new memory
        costs more than the arithmetic."""
        inputs, outputs = (None, None) if out is None else out
        return Batch(
            torch.sub(batch.inputs, self.input_mean[:, None], out=inputs).div_(
                self.input_scale[:, None, None]
            ),
            torch.sub(batch.outputs, self.output_mean[:, None], out=outputs).div_(
                self.output_scale[:, None, None]
            ),
        )

    def fold(self, layer: int, weights: LayerWeights) -> LayerWeights:
        """Weights for raw inputs and outputs from weights for normalized ones, with the same
        pre-activations."""
        scale, mean = self.input_scale[layer], self.input_mean[layer]
        W_enc = weights.W_enc / scale
        n_written = weights.W_dec.shape[1]
        out = self.output_scale[layer : layer + n_written]
        b_dec = weights.b_dec * self.output_scale[layer] + self.output_mean[layer]
        skip = weights.W_skip
        if skip is not None:
            skip = skip * (self.output_scale[layer] / scale)
            b_dec = b_dec - skip @ mean
        return LayerWeights(
            W_enc=W_enc,
            b_enc=weights.b_enc - W_enc @ mean,
            W_dec=weights.W_dec * out[None, :, None],
            b_dec=b_dec,
            W_skip=skip,
        )

    def to(self, device: torch.device) -> Normalization:
        """The same on another device."""
        return Normalization(*(t.to(device) for t in self))


def identity(n_layers: int, d_model: int) -> Normalization:
    """The normalization that changes nothing."""
    zeros, ones = torch.zeros(n_layers, d_model), torch.ones(n_layers)
    return Normalization(zeros, ones, zeros.clone(), ones.clone())


def measure(batches: Iterable[Batch], grid: ProcessGrid) -> Normalization:
    """Means and scales over some batches, the same in every process."""
    sums: list[Tensor] | None = None
    count = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        moments = [m for t in batch for m in _moment_sums(t.double())]
        sums = moments if sums is None else [a + b for a, b in zip(sums, moments, strict=True)]
        count += batch.inputs.shape[1]
    assert sums is not None
    total = [grid.sum(t, DATA) for t in sums]
    n = grid.sum(count.to(total[0].device), DATA)
    parts: list[Tensor] = []
    for first, second in (total[:2], total[2:]):
        mean = first / n
        variance = (second / n - mean.square()).mean(1).clamp(min=0)
        # A layer whose values never vary has nothing to explain: its scale stays 1.
        scale = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
        parts += [mean.float(), scale.float()]
    return Normalization(*parts)


def _moment_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over tokens of the values and of their squares, [layer, d_model] each."""
    return values.sum(1), values.square().sum(1)
