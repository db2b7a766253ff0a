"""Thresholds of TopK and BatchTopK, the same for one process or many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution import kernels
from tl_attribution.training.distributed import DATA, FEATURES, ProcessGrid
from tl_attribution.training.sparse import Active, active_from_indices

TINY = 1e-30
"""Stands for zero: an active feature's pre-activation is above it."""

TIE = 1e-5
"""Relative difference up to which ranks count as equal. The same text twice in a batch gives the
same activations up to rounding, which depends on the processor and on the number of processes."""

PreActivations = Float[Tensor, "token feature"]


class Candidates(NamedTuple):
    """Features of one layer that may be active, ordered by token; the ones of highest ``rank``
    are."""

    token: Int[Tensor, " candidate"]
    feature: Int[Tensor, " candidate"]
    pre: Float[Tensor, " candidate"]
    rank: Float[Tensor, " candidate"]
    n_tokens: int
    n_features: int

    def above(self, threshold: float) -> tuple[Active, Tensor]:
        """The candidates whose rank is at least the threshold, up to :data:`TIE`, and their
        pre-activations."""
        keep = kernels.flat_nonzero(self.rank >= threshold * (1 - TIE))
        token, feature, pre = (
            t.index_select(0, keep) for t in (self.token, self.feature, self.pre)
        )
        return active_from_indices(token, feature, self.n_tokens, self.n_features), pre


def batch_threshold(
    ranks: Float[Tensor, " candidate"], count: int, grid: ProcessGrid
) -> float | None:
    """BatchTopK's threshold, the ``count``-th largest rank over all processes (Bussmann et al.
    2024), or None if there are fewer."""
    gathered = _gather_largest(ranks, count, grid)
    if len(gathered) < count:
        return None
    return kernels.kth_largest(gathered, count)


def _gather_largest(ranks: Tensor, count: int, grid: ProcessGrid) -> Tensor:
    """The largest positive ranks of all processes, at least ``count`` if there are that many."""
    if grid.mesh is None:
        return ranks
    longest = int(
        grid.gather(torch.tensor([len(ranks)], device=ranks.device), FEATURES, DATA).max()
    )
    size = min(count, longest)
    largest = ranks.topk(min(size, len(ranks))).values
    padded = torch.cat([largest, largest.new_zeros(size - len(largest))])
    gathered = grid.gather(padded, FEATURES, DATA)
    return gathered[gathered > 0]


def token_threshold(pre: PreActivations, k: int, grid: ProcessGrid) -> Float[Tensor, "token 1"]:
    """TopK's threshold, each token's k-th largest pre-activation, or just above zero if fewer are
    positive."""
    largest = kernels.topk_values(pre, k)
    if grid.n_shards > 1:
        padding = largest.new_zeros(len(largest), k - largest.shape[1])
        gathered = grid.gather(torch.cat([largest, padding], dim=1), FEATURES)
        largest = kernels.topk_values(gathered, k)
    if largest.shape[1] < k:
        return largest.new_full((len(largest), 1), TINY)
    return largest.amin(1, keepdim=True).clamp(min=TINY)


def topk_lower_bound(pre: PreActivations, k: int) -> Float[Tensor, "token 1"]:
    """A lower bound that each token's k largest pre-activations exceed, and few others: just below
    the k-th largest of the maxima of at least 4 · k groups of features."""
    n_groups = max(32, 4 * k)
    group_size = pre.shape[1] // n_groups
    if group_size < 2:
        return pre.new_zeros(len(pre), 1)
    maxima = pre[:, : group_size * n_groups].unflatten(1, (group_size, n_groups)).amax(1)
    threshold = kernels.topk_values(maxima, k).amin(1, keepdim=True)
    return threshold.nextafter(torch.full_like(threshold, -torch.inf)).clamp(min=0)


def padded_by_token(
    token: Int[Tensor, " entry"], values: Float[Tensor, " entry"], n_tokens: int
) -> Float[Tensor, "token most"]:
    """Values that are ordered by token as a table with one row per token, padded with zeros."""
    counts = torch.bincount(token, minlength=n_tokens)
    start = counts.cumsum(0) - counts
    column = torch.arange(len(token), device=token.device) - start.index_select(0, token)
    table = values.new_zeros(n_tokens, int(counts.max()))
    table[token, column] = values
    return table
