"""What a training run is: every choice in one frozen value that is saved beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Traceable

ACTIVATIONS = ("batchtopk", "topk", "jumprelu", "relu")
KINDS = ("clt", "transcoders")
DTYPES = ("float32", "bfloat16")

ENTRY = 100
"""Bytes of one active feature of one token: its places, values and gradients."""


@dataclass(frozen=True)
class TrainingConfig:
    """A run's numbers. Shares are of the whole run, tokens are tokens of text that are trained on.

    Losses are in normalised units: 1 is the error of predicting each layer's mean output.
    """

    kind: str = "clt"
    """``clt``: features write to their layer and later ones; ``transcoders``: to their own."""
    n_features: int = 4096
    """Features a layer."""
    tokens: int = 10_000_000
    """Tokens trained on; a small dataset is read again and again."""
    activation: str = "batchtopk"
    """``batchtopk`` is saved as JumpReLU, with thresholds calibrated on the last batches."""
    k: int = 16
    """Active features a token and layer: exactly (topk) or on average (batchtopk)."""
    k_per_layer: bool = False
    """BatchTopK: k in every layer; else on average over layers, and each takes what it needs."""
    k_start: int | None = None
    """Anneal k linearly from this number; None: from 4 · k; k itself: not at all."""
    k_anneal: float = 0.6
    """Share of the run over which k is annealed."""
    window: int | None = None
    """A CLT's features write to so many layers, their own included; None: to all later ones."""
    skip: bool = False
    """Add a linear map from what is read to what is written at each layer."""

    feature_input_hook: str = "ln2.hook_normalized"
    """Where features read."""
    feature_output_hook: str = "hook_mlp_out"
    """What they reconstruct."""
    normalise: bool = True
    """Centre and scale each layer's inputs and outputs; folded into the weights when saved."""

    batch: int = 4096
    """Tokens a step, over all processes."""
    buffer: int = 262_144
    """Tokens whose activations are held and shuffled, over all processes."""
    context: int | None = None
    """Tokens of text the model reads at once; None: as many as it can, up to 256."""
    concat: bool = True
    """Join texts and cut them into contexts; False: every text is a context of its own."""
    column: str | None = None
    """The dataset's column of text or token ids; None: found by its usual names."""

    learning_rate: float | None = None
    """Adam's peak rate; None: 2e-4 · sqrt(16384 / n_features) (Gao et al. 2024, §A.3)."""
    warmup: float = 0.02
    """Share of the run over which the rate rises."""
    decay: float = 0.2
    """Share of the run, at its end, over which the rate falls to zero."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the mean squared gradient."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it."""

    sparsity: float = 2e-3
    """λ of the penalty λ · Σ tanh(c · ‖W_dec,i‖ · a_i), for jumprelu and relu; rises linearly from
    0 over the run (methods paper, "Cross-layer transcoder training")."""
    tanh_scale: float = 4.0
    """c of the same."""
    threshold: float = 0.03
    """JumpReLU's threshold at the start."""
    bandwidth: float = 1.0
    """Width of the window of the straight-through gradient (Rajamanoharan et al. 2024)."""
    aux_k: int = 16
    """AuxK: so many dead features a token and layer also fit what is missing; 0: none (Gao et al.
    2024, §A.2)."""
    aux: float = 1 / 32
    """Weight of the AuxK loss."""
    preactivation: float = 1e-3
    """Weight of the mean of Σ relu(threshold − pre) · ‖W_dec,i‖ over dead features, which pulls
    them back (methods paper; there over all features)."""
    dead_after: int = 500_000
    """A feature is dead that was not active over so many tokens."""

    seed: int = 0
    """Of the weights and of the order of the text."""
    dtype: str = "float32"
    """Of the encoders' products: bfloat16 on GPUs only; weights are always float32."""
    feature_shards: int = 1
    """Processes that share one copy of the dictionary, each holding some of every layer's
    features. The others are data parallel."""
    checkpoint_every: int = 1000
    """Steps from one checkpoint to the next."""
    log_every: int = 10
    """Steps from one record to the next."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("kind", KINDS),
            ("activation", ACTIVATIONS),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise InputError(f"{name} is one of {', '.join(allowed)}; got {given!r}")
        counts = ("n_features", "tokens", "k", "batch", "buffer", "feature_shards")
        for name in (*counts, "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_k()
        self._check_shares()
        if self.tokens < self.batch:
            raise InputError(f"tokens={self.tokens} is less than one batch of {self.batch}")
        if self.buffer < self.batch:
            raise InputError(f"buffer={self.buffer} holds less than one batch of {self.batch}")
        if self.n_features % self.feature_shards:
            raise InputError(
                f"n_features={self.n_features} cannot be divided over feature_shards="
                f"{self.feature_shards}"
            )
        if self.window is not None and (self.kind != "clt" or self.window < 1):
            raise InputError("window is for kind='clt', and at least 1")

    def _check_k(self) -> None:
        if self.activation not in ("batchtopk", "topk"):
            return
        for name in ("k", "k_start"):
            k = getattr(self, name)
            if k is not None and not 1 <= k <= self.n_features:
                raise InputError(
                    f"{name}={k} must lie between 1 and n_features={self.n_features}: a layer has "
                    "no more features to activate"
                )

    def _check_shares(self) -> None:
        for name in ("warmup", "decay", "k_anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        if self.warmup + self.decay > 1:
            raise InputError("warmup and decay together are more than the run")
        for name in ("clip", "bandwidth"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("sparsity", "aux", "aux_k", "preactivation", "threshold"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.tokens // self.batch

    @property
    def peak_rate(self) -> float:
        """Adam's learning rate between warm-up and decay."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-4 * (16384 / self.n_features) ** 0.5

    def rate_at(self, step: int) -> float:
        """Learning rate of a step (counted from 0): linear warm-up, flat, linear decay."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.peak_rate * min(1.0, rising, falling)

    def sparsity_at(self, step: int) -> float:
        """λ of the sparsity penalty at a step."""
        return self.sparsity * step / max(1, self.steps - 1)

    def k_at(self, step: int) -> int:
        """k at a step."""
        start = min(4 * self.k, self.n_features) if self.k_start is None else self.k_start
        done = min(1.0, step / max(1.0, self.k_anneal * self.steps))
        return round(start + (self.k - start) * done)

    def written(self, layer: int, n_layers: int) -> int:
        """To how many layers the features of a layer write."""
        window = 1 if self.kind == "transcoders" else self.window or n_layers
        return min(window, n_layers - layer)

    def context_for(self, host: Traceable) -> int:
        """Tokens the model reads at once."""
        return self.context or min(256, host.n_ctx)

    def n_parameters(self, host: Traceable) -> int:
        """Trained numbers of the dictionary."""
        d, n = host.d_model, host.n_layers
        vectors = sum(1 + self.written(layer, n) for layer in range(n))
        per_feature = n * (2 if self.activation == "jumprelu" else 1)
        return self.n_features * (vectors * d + per_feature) + n * d * (d + 1 if self.skip else 1)

    def memory(self, host: Traceable, processes: int = 1) -> int:
        """Bytes a process needs at its peak: weights, gradients, Adam's two moments, the activation
        buffer, one layer's pre-activations, and the active entries if their number is set."""
        weights = 16 * self.n_parameters(host) // self.feature_shards
        lanes = max(1, processes // self.feature_shards)
        pair = 8 * host.n_layers * host.d_model
        k = max(self.k, self.k_at(0)) if self.activation in ("batchtopk", "topk") else 0
        return (
            weights
            + (self.buffer + 3 * self.batch) * pair // lanes
            + (6 * self.batch * self.n_features // processes)
            + (ENTRY * k * host.n_layers * self.batch // processes)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)
