"""Which features are active: thresholds on pre-activations, the same for one process or many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.training import kernels, sparse
from tl_attribution.training.distributed import DATA, FEATURES, ProcessGrid
from tl_attribution.training.sparse import Active

TINY = 1e-30
"""Stands for zero: an active feature's pre-activation is above it."""

TIE = 1e-5
"""Share by which ranks may differ and count as equal. The same text twice in a batch gives the same
activations but for rounding, which depends on the processor and on the number of processes."""

Pre = Float[Tensor, "token feature"]


class Found(NamedTuple):
    """Entries of one layer that may be active, ordered by token; ``rank`` decides which are."""

    token: Int[Tensor, " found"]
    feature: Int[Tensor, " found"]
    pre: Float[Tensor, " found"]
    rank: Float[Tensor, " found"]
    n_tokens: int
    n_features: int

    def above(self, least: float) -> tuple[Active, Tensor]:
        """Entries of at least this rank, or equal to it, and their pre-activations."""
        keep = kernels.where(self.rank >= least * (1 - TIE))
        token, feature, pre = (
            t.index_select(0, keep) for t in (self.token, self.feature, self.pre)
        )
        return sparse.indexed(token, feature, self.n_tokens, self.n_features), pre


def batch_threshold(ranks: Float[Tensor, " found"], wanted: int, team: ProcessGrid) -> float | None:
    """The rank of number ``wanted`` in all processes together (Bussmann et al. 2024), or None if
    there are fewer."""
    every = _join(ranks, wanted, team)
    if len(every) < wanted:
        return None
    return kernels.of_rank(every, wanted)


def _join(found: Tensor, wanted: int, team: ProcessGrid) -> Tensor:
    """The largest positive values of all processes together, at least ``wanted`` if there are."""
    if team.mesh is None:
        return found
    size = min(wanted, _largest(len(found), team, found))
    best = found.topk(min(size, len(found))).values
    padded = torch.cat([best, best.new_zeros(size - len(best))])
    every = team.gather(padded, FEATURES, DATA)
    return every[every > 0]


def _largest(n: int, team: ProcessGrid, like: Tensor) -> int:
    each = team.gather(torch.tensor([n], device=like.device), FEATURES, DATA)
    return int(each.max())


def token_threshold(pre: Pre, k: int, team: ProcessGrid) -> Float[Tensor, "token 1"]:
    """The pre-activation of rank k of each token, or just above zero if fewer are positive."""
    best = kernels.largest(pre, k)
    if team.n_shards > 1:
        missing = best.new_zeros(len(best), k - best.shape[1])
        best = kernels.largest(team.gather(torch.cat([best, missing], dim=1), FEATURES), k)
    if best.shape[1] < k:
        return best.new_full((len(best), 1), TINY)
    return best.amin(1, keepdim=True).clamp(min=TINY)


def below_largest(pre: Pre, k: int) -> Float[Tensor, "token 1"]:
    """A number of each token that its k largest pre-activations are above, and few others: just
    below the k-th largest of the maxima of several times k groups of features."""
    groups = max(32, 4 * k)
    each = pre.shape[1] // groups
    if each < 2:
        return pre.new_zeros(len(pre), 1)
    maxima = pre[:, : each * groups].unflatten(1, (each, groups)).amax(1)
    least = kernels.largest(maxima, k).amin(1, keepdim=True)
    return least.nextafter(torch.full_like(least, -torch.inf)).clamp(min=0)


def by_token(
    token: Int[Tensor, " found"], values: Float[Tensor, " found"], n_tokens: int
) -> Float[Tensor, "token most"]:
    """Values that are ordered by token as a table with a row for each, filled up with zeros."""
    counts = torch.bincount(token, minlength=n_tokens)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(token), device=token.device) - first.index_select(0, token)
    table = values.new_zeros(n_tokens, int(counts.max()))
    table[token, place] = values
    return table
