"""The local replacement model run forward and differentiated by autograd: slow, general, obvious.

Every node's write is multiplied by a strength that is 1; an edge is the derivative of the target's
pre-activation by the source's strength, the constant is the pre-activation with all of them 0. The
reference in tests, and what ``engine="autograd"`` uses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.replacement.local import LocalReplacementModel, Readouts, Rows
from tl_attribution.replacement.snapshot import at_site
from tl_attribution.shapes import Stream


class Oracle:
    """Same answers as :class:`~tl_attribution.replacement.transport.Transport`."""

    def __init__(self, local: LocalReplacementModel) -> None:
        self.local = local

    def rows(
        self,
        readouts: Readouts,
        *,
        out: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rows:
        """Edges into every readout, one backward pass a row."""
        n = self.local.n_sources
        edges = readouts.vectors.new_zeros(len(readouts), n) if out is None else out
        strengths = readouts.vectors.new_ones(n).requires_grad_()
        with torch.enable_grad():
            targets = self.preactivations(strengths, readouts).unbind()
        for row, target in enumerate(targets):
            (edges[row],) = torch.autograd.grad(target, strengths, retain_graph=True)
            if progress is not None:
                progress(row + 1, len(readouts))
        constant = self.preactivations(torch.zeros_like(strengths), readouts).detach()
        return Rows(edges, constant)

    def preactivations(
        self, strengths: Float[Tensor, " source"], readouts: Readouts
    ) -> Float[Tensor, " row"]:
        """Pre-activations of the readouts when each source writes its strength times what it wrote
        on the prompt. Columns as in :class:`~tl_attribution.replacement.local.Rows`."""
        streams = self._forward(strengths, readouts)
        x = torch.stack(streams)[readouts.layer, readouts.position]
        return (x * readouts.vectors).sum(-1) + readouts.bias

    def _forward(self, strengths: Tensor, readouts: Readouts) -> list[Stream]:
        """What is read at the readouts' site of every layer, and of the final stream."""
        local, snapshot = self.local, self.local.snapshot
        counts = [len(local.features), local.n_errors] + [local.n_positions] * (
            1 if snapshot.position_embedding is None else 2
        )
        of_features, of_errors, *of_inputs = strengths.split(counts)
        of_errors = of_errors.view(local.n_layers, -1, 1)
        resid = of_inputs[0][:, None] * snapshot.token_embedding
        if snapshot.position_embedding is not None:
            resid = resid + of_inputs[1][:, None] * snapshot.position_embedding
        seen = []
        for layer, block in enumerate(snapshot.blocks):
            middle = resid + block.attention(resid)
            branch = resid if block.parallel else middle
            own = branch if readouts.site.place == "mlp" else resid
            seen.append(at_site(own, snapshot.norm(layer), readouts.site))
            read = branch if local.read_site.place == "mlp" else resid
            written = local.base[layer] + self._features(layer, of_features)
            written = written + _at_end(of_errors[layer], local.errors[layer], local.prefix)
            written = written + self._skip(layer, read)
            resid = middle + block.add(written, local.write_site)
        seen.append(at_site(resid, snapshot.final_norm, readouts.site))
        return seen

    def _features(self, target: int, strengths: Tensor) -> Stream:
        local = self.local
        out = torch.zeros_like(local.errors[target])
        for layer in range(target + 1):
            rows = (local.features.layer == layer).nonzero().flatten()
            if len(rows) and target in local.dictionary.written_layers(layer):
                written = strengths[rows, None] * local.writes(layer, target, rows)
                out = out.index_add(0, local.features.position[rows], written)
        return out

    def _skip(self, layer: int, stream: Stream) -> Tensor:
        """The linear part of the skip; its constant part is in ``base``."""
        local = self.local
        skip = local.skip(layer)
        if skip is None:
            return torch.zeros_like(stream)
        norm = local.snapshot.norm(layer)
        zero = at_site(torch.zeros_like(stream), norm, local.read_site)
        return (at_site(stream, norm, local.read_site) - zero) @ skip.T


def _at_end(strengths: Tensor, errors: Stream, prefix: int) -> Stream:
    """Errors times strengths at the positions after the prefix, zero before."""
    return torch.cat([torch.zeros_like(errors[:prefix]), strengths * errors[prefix:]])
