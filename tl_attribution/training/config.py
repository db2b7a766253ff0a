"""The configuration of a training run: a frozen dataclass that is saved beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Traceable

Kind = Literal["clt", "transcoders"]
ActivationName = Literal["batchtopk", "topk", "jumprelu", "relu"]
DType = Literal["float32", "bfloat16"]

CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "activation": get_args(ActivationName),
    "dtype": get_args(DType),
}
"""The values of each field that is a choice."""


def check_choices(fields: Mapping[str, Any]) -> None:
    """Raise InputError for a field that is not one of its :data:`CHOICES`."""
    for name, choices in CHOICES.items():
        if name in fields and fields[name] not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}; got {fields[name]!r}")


ACTIVE_BYTES = 100
"""Bytes of one active feature of one token: its indices, values and gradients."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a run. Shares are of the whole run; tokens are tokens of training text.

    Losses are in normalized units: 1 is the error of predicting each layer's mean output.
    """

    kind: Kind = "clt"
    """``clt``: features write to their layer and all later ones; ``transcoders``: only to their
    own layer."""
    n_features: int = 4096
    """Features per layer."""
    tokens: int = 10_000_000
    """Tokens to train on; a smaller dataset is repeated."""
    activation: ActivationName = "batchtopk"
    """Activation function. ``batchtopk`` is saved as JumpReLU, with thresholds calibrated on the
    last batches."""
    k: int = 16
    """Active features per token and layer: exactly (topk) or on average (batchtopk)."""
    k_per_layer: bool = False
    """BatchTopK: whether k holds in each layer, rather than on average over all layers."""
    k_start: int | None = None
    """The k at the first step, annealed linearly to ``k``; None: 4 · k; equal to ``k``: no
    annealing."""
    k_anneal: float = 0.6
    """Share of the run over which k is annealed."""
    window: int | None = None
    """Number of layers that a CLT's features write to, counting their own; None: all later ones."""
    skip: bool = False
    """Whether each layer has a linear map from its inputs to its outputs."""

    feature_input_hook: str = "ln2.hook_normalized"
    """Hook at which features read."""
    feature_output_hook: str = "hook_mlp_out"
    """Hook whose activations the features reconstruct."""
    normalize: bool = True
    """Whether each layer's inputs and outputs are centered and scaled; the saved weights include
    the scaling."""

    batch_size: int = 4096
    """Tokens per step, over all processes."""
    buffer_size: int = 262_144
    """Tokens whose activations are kept and shuffled, over all processes."""
    context_size: int | None = None
    """Tokens per forward pass of the model; None: the model's context size, at most 256."""
    concat: bool = True
    """Whether texts are joined and cut into contexts; otherwise each text is one context."""
    column: str | None = None
    """The dataset's column of texts or token ids; None: the first with one of the usual names."""

    learning_rate: float | None = None
    """Adam's peak learning rate; None: 2e-4 · sqrt(16384 / n_features) (Gao et al. 2024, §A.3)."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from zero."""
    decay: float = 0.2
    """Share of the run, at its end, over which the learning rate falls to zero."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the mean squared gradient."""
    clip: float = 1.0
    """Maximum norm of the gradient; a larger gradient is scaled down to it."""

    sparsity_coefficient: float = 2e-3
    """λ of the penalty λ · Σ tanh(c · ‖W_dec,i‖ · a_i), for jumprelu and relu; rises linearly from
    0 over the run (methods paper, "Cross-layer transcoder training")."""
    tanh_scale: float = 4.0
    """The c of the sparsity penalty."""
    initial_threshold: float = 0.03
    """JumpReLU's threshold at the first step."""
    bandwidth: float = 1.0
    """Width of the window of the straight-through gradient (Rajamanoharan et al. 2024)."""
    aux_k: int = 16
    """Dead features per token and layer that AuxK fits to the remaining error; 0: no AuxK (Gao et
    al. 2024, §A.2)."""
    aux_coefficient: float = 1 / 32
    """Coefficient of the AuxK loss."""
    preactivation_coefficient: float = 1e-3
    """Coefficient of the mean of Σ relu(threshold − pre) · ‖W_dec,i‖ over dead features, which
    brings them back (methods paper; there over all features)."""
    dead_after: int = 500_000
    """Tokens without an activation after which a feature counts as dead."""

    seed: int = 0
    """Seed of the initial weights and of the order of the text."""
    dtype: DType = "float32"
    """Precision of the encoders' matrix products: bfloat16 on GPUs only; weights are float32."""
    feature_shards: int = 1
    """Processes that divide the features of one copy of the dictionary; the others are data
    parallel."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between log records."""

    def __post_init__(self) -> None:
        check_choices(vars(self))
        counts = ("n_features", "tokens", "k", "batch_size", "buffer_size", "feature_shards")
        for name in (*counts, "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_k()
        self._check_ranges()
        self._check_sizes()

    def _check_k(self) -> None:
        if self.activation not in ("batchtopk", "topk"):
            return
        for name in ("k", "k_start"):
            k = getattr(self, name)
            if k is not None and not 1 <= k <= self.n_features:
                raise InputError(
                    f"{name}={k} must lie between 1 and n_features={self.n_features}, the number "
                    "of features per layer"
                )

    def _check_ranges(self) -> None:
        for name in ("warmup", "decay", "k_anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        if self.warmup + self.decay > 1:
            raise InputError(
                f"warmup={self.warmup} and decay={self.decay} together are more than the run"
            )
        for name in ("clip", "bandwidth"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        coefficients = ("sparsity_coefficient", "aux_coefficient", "preactivation_coefficient")
        for name in (*coefficients, "aux_k", "initial_threshold"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")

    def _check_sizes(self) -> None:
        for name in ("tokens", "buffer_size"):
            if getattr(self, name) < self.batch_size:
                raise InputError(
                    f"{name}={getattr(self, name)} is less than one batch of "
                    f"batch_size={self.batch_size}"
                )
        if self.n_features % self.feature_shards:
            raise InputError(
                f"n_features={self.n_features} cannot be divided over feature_shards="
                f"{self.feature_shards}"
            )
        if self.window is not None and (self.kind != "clt" or self.window < 1):
            raise InputError(
                f"window must be at least 1 and needs kind='clt'; got window={self.window} with "
                f"kind={self.kind!r}"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.tokens // self.batch_size

    @property
    def peak_learning_rate(self) -> float:
        """Adam's learning rate between warm-up and decay."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-4 * (16384 / self.n_features) ** 0.5

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step (counted from 0): linear warm-up, constant, linear decay."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.peak_learning_rate * min(1.0, rising, falling)

    def sparsity_at(self, step: int) -> float:
        """Coefficient λ of the sparsity penalty at a step."""
        return self.sparsity_coefficient * step / max(1, self.steps - 1)

    def k_at(self, step: int) -> int:
        """Value of k at a step."""
        start = min(4 * self.k, self.n_features) if self.k_start is None else self.k_start
        progress = min(1.0, step / max(1.0, self.k_anneal * self.steps))
        return round(start + (self.k - start) * progress)

    def n_written(self, layer: int, n_layers: int) -> int:
        """Number of layers that the features of a layer write to."""
        window = 1 if self.kind == "transcoders" else self.window or n_layers
        return min(window, n_layers - layer)

    def context_for(self, host: Traceable) -> int:
        """Tokens per forward pass of the host."""
        return self.context_size or min(256, host.n_ctx)

    def n_parameters(self, host: Traceable) -> int:
        """Number of trained parameters of the dictionary."""
        d, n = host.d_model, host.n_layers
        vectors = sum(1 + self.n_written(layer, n) for layer in range(n))
        per_feature = n * (2 if self.activation == "jumprelu" else 1)
        return self.n_features * (vectors * d + per_feature) + n * d * (d + 1 if self.skip else 1)

    def memory(self, host: Traceable, processes: int = 1) -> int:
        """Bytes that a process needs at its peak: weights, gradients, Adam's two moments, the
        activation buffer, one layer's pre-activations, and, where k limits their number, the active
        features."""
        weights = 16 * self.n_parameters(host) // self.feature_shards
        copies = max(1, processes // self.feature_shards)
        token_bytes = 8 * host.n_layers * host.d_model
        k = max(self.k, self.k_at(0)) if self.activation in ("batchtopk", "topk") else 0
        return (
            weights
            + (self.buffer_size + 3 * self.batch_size) * token_bytes // copies
            + (6 * self.batch_size * self.n_features // processes)
            + (ACTIVE_BYTES * k * host.n_layers * self.batch_size // processes)
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)
