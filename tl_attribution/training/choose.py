"""Which features are active: thresholds on pre-activations, the same for one process or many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.training import sparse
from tl_attribution.training.distributed import DATA, FEATURES, Team
from tl_attribution.training.sparse import Active

TINY = 1e-30
"""Stands for zero: an active feature's pre-activation is above it."""

Pre = Float[Tensor, "token feature"]


class Found(NamedTuple):
    """Entries of one layer that may be active, ordered by token; ``rank`` decides which are.
    ``dead`` holds the pre-activations of dead features, [token, dead]."""

    token: Int[Tensor, " found"]
    feature: Int[Tensor, " found"]
    pre: Float[Tensor, " found"]
    rank: Float[Tensor, " found"]
    n_tokens: int
    n_features: int
    dead: Float[Tensor, "token dead"]

    def above(self, least: float) -> tuple[Active, Tensor]:
        """Entries of at least this rank, and their pre-activations."""
        keep = self.rank >= least
        at = sparse.indexed(self.token[keep], self.feature[keep], self.n_tokens, self.n_features)
        return at, self.pre[keep]


def found(
    pre: Pre,
    weight: Float[Tensor, " feature"],
    mask: Bool[Tensor, "token feature"],
    dead: Bool[Tensor, " feature"],
) -> Found:
    """The entries of a mask; their rank is pre-activation · weight."""
    tokens, features = pre.shape
    at = mask.flatten().nonzero()[:, 0]  # half the time of finding pairs
    token = at // features
    feature = at - token * features
    values = pre.flatten()[at]
    rank = values * weight[feature]
    return Found(token, feature, values, rank, tokens, features, pre[:, dead])


def batch_threshold(ranks: Float[Tensor, " found"], wanted: int, team: Team) -> float | None:
    """The rank of number ``wanted`` in all processes together (Bussmann et al. 2024), or None if
    there are fewer."""
    every = _join(ranks, wanted, team)
    if len(every) < wanted:
        return None
    return float(every.kthvalue(len(every) - wanted + 1).values)


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
