"""Normalisation: each layer's inputs and outputs centred and divided by one scale."""

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
    """Means [layer, d_model] and scales [layer]: the root of the mean variance of a coordinate."""

    input_mean: Float[Tensor, "layer d_model"]
    input_scale: Float[Tensor, " layer"]
    output_mean: Float[Tensor, "layer d_model"]
    output_scale: Float[Tensor, " layer"]

    def normalise(self, batch: Batch, room: Batch | None = None) -> Batch:
        """The batch in normalised units, put into ``room``, an earlier one that is done with, if
        given: fresh memory costs more than the arithmetic."""
        inputs, outputs = (None, None) if room is None else room
        return Batch(
            torch.sub(batch.inputs, self.input_mean[:, None], out=inputs).div_(
                self.input_scale[:, None, None]
            ),
            torch.sub(batch.outputs, self.output_mean[:, None], out=outputs).div_(
                self.output_scale[:, None, None]
            ),
        )

    def fold(self, layer: int, weights: LayerWeights) -> LayerWeights:
        """Weights of normalised units as weights of raw ones: the same pre-activations from raw
        inputs, and raw outputs."""
        scale, mean = self.input_scale[layer], self.input_mean[layer]
        W_enc = weights.W_enc / scale
        written = weights.W_dec.shape[1]
        out = self.output_scale[layer : layer + written]
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


def none(n_layers: int, d_model: int) -> Normalization:
    """Scales that change nothing."""
    zeros, ones = torch.zeros(n_layers, d_model), torch.ones(n_layers)
    return Normalization(zeros, ones, zeros.clone(), ones.clone())


def measure(batches: Iterable[Batch], team: ProcessGrid) -> Normalization:
    """Means and scales over some batches, the same in every process."""
    sums: list[Tensor] | None = None
    count = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        seen = [t.double() for t in batch]
        made = [f(t) for t in seen for f in (_sum, _sum_of_squares)]
        sums = made if sums is None else [a + b for a, b in zip(sums, made, strict=True)]
        count += batch.inputs.shape[1]
    assert sums is not None
    total = [team.total(t, DATA) for t in sums]
    n = team.total(count.to(total[0].device), DATA)
    parts: list[Tensor] = []
    for first, second in (total[:2], total[2:]):
        mean = first / n
        variance = (second / n - mean.square()).mean(1).clamp(min=0)
        # A layer that never varies has nothing to explain: leave its unit alone.
        scale = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
        parts += [mean.float(), scale.float()]
    return Normalization(*parts)


def _sum(t: Tensor) -> Tensor:
    return t.sum(1)


def _sum_of_squares(t: Tensor) -> Tensor:
    return t.square().sum(1)
