"""Which features are active: thresholds on pre-activations, the same for one process or many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.training import kernels, sparse
from tl_attribution.training.distributed import DATA, FEATURES, Team
from tl_attribution.training.sparse import Active

TINY = 1e-30
"""Stands for zero: an active feature's pre-activation is above it."""

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
        """Entries of at least this rank, and their pre-activations."""
        keep = kernels.where(self.rank >= least)
        token, feature, pre = (
            t.index_select(0, keep) for t in (self.token, self.feature, self.pre)
        )
        return sparse.indexed(token, feature, self.n_tokens, self.n_features), pre


def batch_threshold(ranks: Float[Tensor, " found"], wanted: int, team: Team) -> float | None:
    """The rank of number ``wanted`` in all processes together (Bussmann et al. 2024), or None if
    there are fewer."""
    every = _join(ranks, wanted, team)
    if len(every) < wanted:
        return None
    return kernels.of_rank(every, wanted)


def _join(found: Tensor, wanted: int, team: Team) -> Tensor:
    """The largest positive values of all processes together, at least ``wanted`` if there are."""
    if team.mesh is None:
        return found
    size = min(wanted, _largest(len(found), team, found))
    best = found.topk(min(size, len(found))).values
    padded = torch.cat([best, best.new_zeros(size - len(best))])
    every = team.gather(padded, FEATURES, DATA)
    return every[every > 0]


def _largest(n: int, team: Team, like: Tensor) -> int:
    each = team.gather(torch.tensor([n], device=like.device), FEATURES, DATA)
    return int(each.max())


def token_threshold(pre: Pre, k: int, team: Team) -> Float[Tensor, "token 1"]:
    """The pre-activation of rank k of each token, or just above zero if fewer are positive."""
    best = pre.topk(min(k, pre.shape[1]), dim=1).values
    if team.n_shards > 1:
        missing = best.new_zeros(len(best), k - best.shape[1])
        best = team.gather(torch.cat([best, missing], dim=1), FEATURES).topk(k, dim=1).values
    if best.shape[1] < k:
        return best.new_full((len(best), 1), TINY)
    return best[:, -1:].clamp(min=TINY)
