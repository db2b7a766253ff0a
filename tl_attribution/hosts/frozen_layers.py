"""Norms and attention with everything that depends on the prompt frozen: affine maps of the stream.

Every map has four forms: applied to the stream; its linear part alone (``push``, for changes of the
stream); the adjoint of the linear part (``pull``, for cotangents); and its constant (its value on a
stream of zeros).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution import kernels
from tl_attribution.shapes import Changes, Cotangents, Stream


def _center(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """LayerNorm or RMSNorm with its denominator frozen: center if ``centered``, divide by
    ``scale``, multiply by ``weight``, add ``bias``."""

    scale: Float[Tensor, "position 1"]
    centered: bool
    weight: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None

    def normalized(self, x: Float[Tensor, "*row position d_model"]) -> Tensor:
        """Center and divide, before weight and bias."""
        return (_center(x) if self.centered else x) / self.scale

    def weighted(self, normalized: Tensor) -> Tensor:
        """Apply weight and bias to a normalized tensor."""
        out = normalized if self.weight is None else normalized * self.weight
        return out if self.bias is None else out + self.bias

    def __call__(self, x: Stream) -> Stream:
        """Apply the affine map."""
        return self.weighted(self.normalized(x))

    def push(self, change: Changes) -> Changes:
        """Apply the linear part to a change of the input."""
        out = self.normalized(change)
        return out if self.weight is None else out * self.weight

    def pull(self, g: Cotangents) -> Cotangents:
        """Apply the adjoint of the linear part; ``g`` may hold only the first positions."""
        g = g if self.weight is None else g * self.weight
        return self.pull_normalized(g, self.scale[: g.shape[-2]])

    def pull_normalized(self, g: Tensor, scale: Tensor) -> Tensor:
        """Apply the adjoint of :meth:`normalized`, with the scales of ``g``'s positions."""
        return (_center(g) if self.centered else g) / scale

    def fold_in(self, weight: Float[Tensor, "d_model out"]) -> Float[Tensor, "d_model out"]:
        """Fold centering and weight into the rows of a matrix that reads the norm's output, so that
        only the division remains."""
        folded = weight if self.weight is None else self.weight[:, None] * weight
        return _center(folded.T).T if self.centered else folded

    def fold_out(self, weight: Float[Tensor, "inner d_model"]) -> Float[Tensor, "inner d_model"]:
        """Fold centering and weight into a matrix that writes the norm's input."""
        folded = _center(weight) if self.centered else weight
        return folded if self.weight is None else folded * self.weight


@dataclass(frozen=True, eq=False)
class FrozenAttention:
    """One block's attention with its patterns frozen.

    ``pattern[h, p, q]`` is how much position p takes from q; query heads share a key/value head in
    groups of ``head / kv`` neighbours.
    """

    pattern: Float[Tensor, "head position position"]
    W_V: Float[Tensor, "kv d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    norm: FrozenNorm
    b_V: Float[Tensor, "kv d_head"] | None = None
    b_O: Float[Tensor, " d_model"] | None = None
    post_norm: FrozenNorm | None = None

    def __call__(self, x: Stream) -> Stream:
        """Compute what the attention adds to the stream ``x``, by the definition."""
        v = torch.einsum("qd,kde->qke", self.norm(x), self.W_V)
        v = v if self.b_V is None else v + self.b_V
        v = v.repeat_interleave(self.W_O.shape[0] // self.W_V.shape[0], dim=1)
        z = torch.einsum("hpq,qhe->phe", self.pattern, v)
        out = torch.einsum("phe,hed->pd", z, self.W_O)
        out = out if self.b_O is None else out + self.b_O
        return out if self.post_norm is None else self.post_norm(out)

    @cached_property
    def constant(self) -> Stream:
        """What the attention adds to a stream of zeros: the contribution of all biases."""
        return self(self.pattern.new_zeros(self.pattern.shape[1], self.W_V.shape[1]))

    @cached_property
    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Value matrix [kv·d_head, d_model], output matrix [d_model, head·d_head] and pattern
        [kv, group, p, q] with both norms folded in: what the linear part and its adjoint use."""
        kv, width, d_head = self.W_V.shape
        heads, n = self.pattern.shape[:2]
        values = self.norm.fold_in(self.W_V.permute(1, 0, 2).reshape(width, kv * d_head))
        output = self.W_O.reshape(heads * d_head, width)
        pattern = self.pattern / self.norm.scale.T
        if self.post_norm is not None:
            output = self.post_norm.fold_out(output)
            pattern = pattern / self.post_norm.scale
        grouped = pattern.view(kv, heads // kv, n, n)
        return values.T.contiguous(), output.T.contiguous(), grouped

    def push(self, change: Changes) -> Changes:
        """Apply the linear part: how a change of the stream changes what the attention adds."""
        values, output, pattern = self._folded
        kv = pattern.shape[0]
        v = (change @ values.T).unflatten(-1, (kv, -1))
        z = torch.einsum("kgpq,rqke->rpkge", pattern, v)
        return z.flatten(2) @ output.T

    def add_pulled(self, g: Cotangents) -> None:
        """Add to ``g`` what the attention pulls back:
        ``Nᵀ Σ_h Σ_{p≥q} pattern[h,p,q] · (g[p] W_Oᵀ[h]) W_Vᵀ[h]`` as three matrix products.

        ``g`` may hold only the first positions: attention is causal, so later ones add nothing.
        """
        values, output, pattern = self._folded
        rows, n, width = g.shape
        kv, group = pattern.shape[:2]
        flat = g.view(rows * n, width)
        z = kernels.product(flat, output.T).view(rows, n, kv, group, -1)
        mixed = torch.einsum("kgpq,rpkge->rqke", pattern[..., :n, :n], z)
        kernels.add_product(flat, mixed.reshape(rows * n, -1), values.T)
