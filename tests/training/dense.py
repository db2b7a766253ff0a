"""The trainer's loss by dense products and ordinary autograd: slow, obvious, the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from tl_attribution.training.buffer import Batch
from tl_attribution.training.model import TrainingTranscoder


def activations(t: TrainingTranscoder, layer: int, pre: Tensor, step: int) -> Tensor:
    c = t.config
    if c.activation == "relu":
        return pre.relu()
    if c.activation == "topk":
        kept = pre.topk(c.k_at(step), dim=1)
        return torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())
    threshold = t.log_threshold[layer].exp()
    return pre * (pre > threshold)


def batch_topk(t: TrainingTranscoder, pres: list[Tensor], step: int) -> list[Tensor]:
    """The largest pre-activations · decoder norms of the batch, in each layer or over all."""
    k, tokens = t.config.k_at(step), len(pres[0])
    norms = [torch.cat(tables, 1).detach().norm(dim=1) for tables in t.decoders]
    ranks = torch.stack([pre.detach() * n for pre, n in zip(pres, norms, strict=True)])
    groups = ranks.flatten(1) if t.config.k_per_layer else ranks.flatten()[None]
    count = k * tokens * t.n_layers // len(groups)
    threshold = groups.topk(count, dim=1).values[:, -1]
    threshold = threshold.expand(t.n_layers) if len(threshold) == 1 else threshold
    return [
        pre.relu() * (rank >= low) for pre, rank, low in zip(pres, ranks, threshold, strict=True)
    ]


def forward(t: TrainingTranscoder, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
    """Reconstruction and loss without the terms for dead features."""
    c = t.config
    pres = [batch.inputs[layer] @ t.W_enc[layer].T + t.b_enc[layer] for layer in t]
    if c.activation == "batchtopk":
        acts = batch_topk(t, pres, step)
    else:
        acts = [activations(t, layer, pre, step) for layer, pre in enumerate(pres)]
    recon = [t.b_dec[layer].expand(batch.inputs.shape[1], -1) for layer in t]
    penalty = torch.zeros(())
    for layer, a in enumerate(acts):
        for to, table in enumerate(t.decoders[layer], layer):
            recon[to] = recon[to] + a @ table
        norm = torch.cat(t.decoders[layer], 1).norm(dim=1)
        penalty = penalty + torch.tanh(c.tanh_scale * norm * a).sum(1).mean() / t.n_layers
    out = torch.stack(recon)
    if c.skip:
        out = out + torch.einsum("ltd,lod->lto", batch.inputs, t.W_skip)
    loss = (batch.outputs - out).square().mean()
    if c.activation in ("jumprelu", "relu"):
        loss = loss + c.sparsity_at(step) * penalty
    return out, loss
