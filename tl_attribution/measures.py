"""Sums over tokens from which an evaluation's numbers follow, in float64: what is held does not
grow with the tokens. Definitions are where the numbers are, in :mod:`tl_attribution.evaluation`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.evaluation import DENSITY_EDGES, LayerEvaluation, Replaced, finite
from tl_attribution.replacement.replaced import Logits, Used
from tl_attribution.shapes import Stream

LEAST_LOSS = 1e-6
"""Nats by which an ablation must change the loss for a share of it to be told."""


class Moments:
    """Of vectors [d_model]: how many, their sum, the sum of their squared lengths."""

    def __init__(self, d_model: int) -> None:
        self.n = 0
        self.total = torch.zeros(d_model, dtype=torch.float64)
        self.squares = 0.0

    def add(self, vectors: Stream) -> None:
        """Count in one vector a position."""
        exact = vectors.cpu().double()
        self.n += len(exact)
        self.total += exact.sum(0)
        self.squares += float(exact.square().sum())

    @property
    def deviation(self) -> float:
        """Sum of squared deviations from the mean."""
        return max(self.squares - float(self.total.square().sum()) / max(self.n, 1), 0.0)


class Reconstruction:
    """One layer's features and reconstruction against what its MLP writes."""

    def __init__(self, d_model: int, n_features: int) -> None:
        self.written, self.missed = Moments(d_model), Moments(d_model)
        self.times_active = torch.zeros(n_features, dtype=torch.long)

    def add(self, active: Used, written: Stream, reconstruction: Stream) -> None:
        """Count in some positions."""
        self.written.add(written)
        self.missed.add(written - reconstruction)
        self.times_active[active.feature.cpu()] += active.activation.count_nonzero(0).cpu()

    def evaluation(self, replaced: Replaced) -> LayerEvaluation:
        """The layer's numbers so far."""
        # Below this, deviations are the rounding of float64 sums: the output does not vary.
        rounding = 1e-12 * self.written.squares
        varies = self.written.deviation > rounding
        size = self.written.deviation if varies else float("nan")
        alive = self.times_active[self.times_active > 0]
        return LayerEvaluation(
            nmse=finite(self.missed.squares / size),
            explained_variance=finite(1 - self.missed.deviation / size),
            l0=int(self.times_active.sum()) / self.written.n,
            dead=len(self.times_active) - len(alive),
            density=density(alive.double() / self.written.n),
            replaced=replaced,
        )


def density(shares: Float[Tensor, " alive"]) -> tuple[int, ...]:
    """How many shares fall into each bin of DENSITY_EDGES; those below the first edge count as its
    bin's, a share of 1 as the last one's."""
    inner = torch.tensor(DENSITY_EDGES[1:-1], dtype=torch.float64)
    bins = torch.bucketize(shares.log10(), inner, right=True)
    return tuple(bins.bincount(minlength=len(DENSITY_EDGES) - 1).tolist())


class Prediction:
    """Next-token predictions of a model with something replaced, against the model's own."""

    def __init__(self) -> None:
        self.tokens = self.same = self.predicted = 0
        self.kl = self.loss = 0.0

    def add(self, own: Logits, other: Logits, following: Int[Tensor, " next"]) -> None:
        """Count in some positions. ``following`` are the tokens that came next: one fewer than
        positions where the text ended."""
        p, q = own.log_softmax(-1), other.log_softmax(-1)
        self.tokens += len(p)
        self.same += int((own.argmax(-1) == other.argmax(-1)).sum())
        self.kl += float((p.exp() * (p - q)).sum(-1).cpu().double().sum())  # MPS has no float64
        self.predicted += len(following)
        self.loss += float(-q.gather(1, following[:, None].to(q.device)).cpu().double().sum())

    @property
    def mean_loss(self) -> float:
        """Cross-entropy in nats, NaN if nothing was predicted."""
        return self.loss / self.predicted if self.predicted else float("nan")


def replaced(own: Prediction, replacement: Prediction, ablated: Prediction) -> Replaced:
    """The numbers of a replacement, given the model's own predictions and those of an ablation."""
    scale = ablated.mean_loss - own.mean_loss
    recovered = (ablated.mean_loss - replacement.mean_loss) / scale if scale else float("nan")
    return Replaced(
        agreement=replacement.same / replacement.tokens,
        kl=finite(max(replacement.kl / replacement.tokens, 0.0)),
        loss=finite(replacement.mean_loss),
        ablated_loss=finite(ablated.mean_loss),
        loss_recovered=finite(recovered) if abs(scale) >= LEAST_LOSS else None,
    )


def ranks(values: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, which, counts = values.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts + 1) / 2)[which]


def spearman(one: Float[Tensor, " item"], other: Float[Tensor, " item"]) -> float | None:
    """Rank correlation, −1 to 1; None for fewer than three items or where one side is constant."""
    if len(one) < 3:
        return None
    a, b = (ranks(x) - ranks(x).mean() for x in (one, other))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else None
