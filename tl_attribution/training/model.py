"""The transcoder during training: its weights in normalized units, and the loss of one step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_attribution.dictionaries.activations import Activation, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.dictionaries.transcoder import LayerWeights, Transcoder
from tl_attribution.training import losses, sparse, thresholds
from tl_attribution.training.buffer import Batch
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import DATA, FEATURES, ProcessGrid
from tl_attribution.training.normalization import Normalization
from tl_attribution.training.sparse import Active
from tl_attribution.training.sparse_encoder import Encoder, preactivations_above
from tl_attribution.training.thresholds import TINY, Candidates

SEARCH_SHARES = 0.93, 0.5, 0.0
"""Candidates are searched for above this share of the guessed threshold; if too few are found,
above the next. The lower, the more candidates there are: at zero, half of all."""
SAMPLE_TOKENS = 64
"""Tokens from which the first threshold is guessed."""


class StepResult(NamedTuple):
    """The loss of a step and its statistics. ``parts`` are the terms of the loss by name; ``error``
    is this process's mean squared error; ``active`` counts the tokens on which a feature was
    active."""

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    error: Float[Tensor, " layer"]
    active: Float[Tensor, "layer feature"]


class _Encoded(NamedTuple):
    """The active features of one layer and their pre-activations [active]."""

    active: Active
    pre: Tensor


class TrainingTranscoder(nn.Module):
    """Weights of all layers; with several shards, only those of this process's features.

    Initialized as in the methods paper ("Cross-layer transcoder training"): encoders uniform within
    ±1/√n_features, decoders within ±1/√(n_layers · d_model), biases zero.
    """

    def __init__(
        self, config: TrainingConfig, n_layers: int, d_model: int, grid: ProcessGrid
    ) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.n_layers, self.d_model = n_layers, d_model
        self.n_features = config.n_features // config.feature_shards
        self.W_enc, self.W_dec = nn.ParameterList(), nn.ModuleList()
        for layer in self:
            encoder, decoder = self._initial_weights(layer)
            self.W_enc.append(nn.Parameter(grid.local(encoder, 0)))
            tables = [nn.Parameter(grid.local(table, 0).contiguous()) for table in decoder]
            self.W_dec.append(nn.ParameterList(tables))
        self.b_enc = nn.ParameterList([nn.Parameter(torch.zeros(self.n_features)) for _ in self])
        self.b_dec = nn.Parameter(torch.zeros(n_layers, d_model))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        if config.activation == "jumprelu":
            threshold = max(config.initial_threshold, 1e-6)
            self.log_threshold = nn.Parameter(
                torch.full((n_layers, self.n_features), threshold).log()
            )
        self.last_thresholds: list[float] | None = None
        """BatchTopK's threshold of each layer at the step before."""
        self._output: Tensor | None = None
        """Memory for each step's reconstruction: new memory costs more than the arithmetic."""
        self.to(grid.device)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the layers by number."""
        return iter(range(self.n_layers))

    def _initial_weights(self, layer: int) -> tuple[Tensor, Tensor]:
        """Encoder [feature, d_model] and decoder [target layer, feature, d_model]."""
        c = self.config
        rng = torch.Generator().manual_seed((c.seed << 16) + layer)
        n_written = c.n_written(layer, self.n_layers)
        encoder = torch.empty(c.n_features, self.d_model)
        decoder = torch.empty(c.n_features, n_written, self.d_model)
        bound = (self.n_layers * self.d_model) ** -0.5
        encoder.uniform_(-(c.n_features**-0.5), c.n_features**-0.5, generator=rng)
        decoder.uniform_(-bound, bound, generator=rng)
        return encoder, decoder.transpose(0, 1)

    def tables(self, layer: int) -> list[Tensor]:
        """The decoder of a layer: one table [feature, d_model] for each layer it writes to."""
        return list(self.W_dec[layer].parameters())

    @property
    def decoders(self) -> list[list[Tensor]]:
        """The decoders of all layers."""
        return [self.tables(layer) for layer in self]

    def sharded(self, name: str) -> int | None:
        """The dimension along which a parameter is divided by feature, or None if it is not."""
        weight = name.split(".")[0]
        return {"W_enc": 0, "W_dec": 0, "b_enc": 0, "log_threshold": 1}.get(weight)

    # One step

    def forward(self, batch: Batch, step: int, dead: Bool[Tensor, "layer feature"]) -> StepResult:
        """The loss of one batch, in normalized units. ``dead`` marks the features that AuxK and the
        pre-activation loss bring back."""
        c = self.config
        layers = self._encode(batch.inputs, step)
        active = [layer.active for layer in layers]
        acts = [self._gate(layer, encoded) for layer, encoded in enumerate(layers)]
        reconstruction = self._reconstruct(active, acts, batch)
        # The error takes the reconstruction's memory: nothing else needs it.
        error = reconstruction.detach().sub_(batch.outputs)
        squared = losses.MeanSquare.apply(reconstruction, error)
        parts = {"error": squared.mean()}
        if c.activation in ("jumprelu", "relu"):
            penalty = losses.tanh_penalty(active, acts, self.decoders, c.tanh_scale)
            parts["sparsity"] = c.sparsity_at(step) * self._sum_shards(penalty)
        if (c.aux_k or c.preactivation_coefficient) and self.grid.any(bool(dead.any())):
            parts |= self._dead_feature_losses(batch.inputs, -error, dead)
        return StepResult(
            loss=torch.stack(list(parts.values())).sum(),
            parts={name: part.detach() for name, part in parts.items()},
            error=squared.detach(),
            active=torch.stack([_count(p, a) for p, a in zip(active, acts, strict=True)]),
        )

    def _reconstruct(self, active: list[Active], acts: list[Tensor], batch: Batch) -> Tensor:
        if self._output is None or self._output.shape != batch.outputs.shape:
            self._output = torch.empty(batch.outputs.shape, device=self.grid.device)
        decoded = sparse.decode(active, acts, self.decoders, self._output)
        reconstruction = self.grid.sum_features(decoded).add_(self.b_dec[:, None])
        if self.config.skip:
            reconstruction += batch.inputs @ self.W_skip.mT
        return reconstruction

    def _encode(self, inputs: Tensor, step: int) -> list[_Encoded]:
        with torch.no_grad():
            candidates, ranks = self._choose(inputs, step)
        encoded = []
        for layer, (layer_candidates, rank) in enumerate(zip(candidates, ranks, strict=True)):
            active, pre = layer_candidates.above(rank)
            W, b = self.W_enc[layer], self.b_enc[layer]
            encoded.append(_Encoded(active, sparse.Encode.apply(active, inputs[layer], W, b, pre)))
        return encoded

    def _choose(self, inputs: Tensor, step: int) -> tuple[list[Candidates], list[float]]:
        """Candidates of each layer, and the lowest rank at which they are active."""
        zeros = [0.0] * self.n_layers
        if self.config.activation != "batchtopk":
            return self._candidates(inputs, step, zeros), [-math.inf] * self.n_layers
        candidates, ranks, guess = [], [None], self._guess(inputs, step)
        for share in SEARCH_SHARES:
            candidates = self._candidates(inputs, step, [share * rank for rank in guess])
            ranks = self._batch_thresholds(candidates, step)
            # Enough candidates, or all there are.
            if None not in ranks or max(guess) <= TINY:
                break
        self.last_thresholds = [TINY if rank is None else rank for rank in ranks]
        return candidates, self.last_thresholds

    def _candidates(self, inputs: Tensor, step: int, ranks: list[float]) -> list[Candidates]:
        """Features of each layer that may be active: for BatchTopK those above a rank."""
        return [self._layer_candidates(layer, inputs[layer], step, ranks[layer]) for layer in self]

    def _layer_candidates(self, layer: int, x: Tensor, step: int, rank: float) -> Candidates:
        weight, k, threshold = None, None, torch.zeros_like(self.b_enc[layer])
        match self.config.activation:
            case "batchtopk":
                weight = self._decoder_norm(layer)
                threshold = rank / weight.clamp(min=1e-12)
            case "jumprelu":
                threshold = self.log_threshold[layer].exp() - self.config.bandwidth / 2
            case "topk":
                k = self.config.k_at(step)
        encoder = Encoder(self.W_enc[layer], self.b_enc[layer], self.config.dtype)
        token, feature, pre = preactivations_above(x, encoder, threshold, k, self.grid)
        ranks = pre if weight is None else pre * weight.index_select(0, feature)
        return Candidates(token, feature, pre, ranks, len(x), self.n_features)

    def _decoder_norm(self, layer: int) -> Tensor:
        """Norm of each feature's decoder vectors, [feature], without gradients."""
        return sparse.decoder_norm([table.detach() for table in self.tables(layer)])

    # BatchTopK: the largest activations · decoder norms of a batch, over all layers or in each

    def _guess(self, inputs: Tensor, step: int) -> list[float]:
        """Each layer's threshold of the last step or, at the first, of a sample; the same in every
        process. Features far below it are not active and are not searched."""
        if self.last_thresholds is not None:
            return self.last_thresholds
        sample = self._candidates(inputs[:, :SAMPLE_TOKENS], step, [0.0] * self.n_layers)
        count = self.config.k_at(step) * sample[0].n_tokens
        ranks = [
            float(layer.rank.topk(count).values[-1]) if len(layer.rank) > count else 0.0
            for layer in sample
        ]
        return [self.grid.min(min(ranks))] * self.n_layers

    def _batch_thresholds(self, candidates: list[Candidates], step: int) -> list[float | None]:
        """The (k · tokens)-th largest rank, of each layer or of all layers together."""
        tokens = candidates[0].n_tokens * self.grid.n_data
        count = self.config.k_at(step) * tokens
        ranks = [layer.rank for layer in candidates]
        if self.config.k_per_layer:
            return [thresholds.batch_threshold(r, count, self.grid) for r in ranks]
        shared = thresholds.batch_threshold(torch.cat(ranks), count * self.n_layers, self.grid)
        return [shared] * self.n_layers

    @torch.no_grad()
    def thresholds(self, inputs: Float[Tensor, "layer token d_model"]) -> Float[Tensor, " layer"]:
        """BatchTopK's thresholds on one batch, in units of activation · decoder norm."""
        _, ranks = self._choose(inputs, self.config.steps)
        return torch.tensor(ranks, device=inputs.device)

    def _gate(self, layer: int, encoded: _Encoded) -> Tensor:
        if self.config.activation != "jumprelu":
            return encoded.pre
        threshold = self.log_threshold[layer].exp()[encoded.active.feature]
        return losses.JumpGate.apply(encoded.pre, threshold, self.config.bandwidth)

    # Dead features

    def _dead_feature_losses(
        self, inputs: Tensor, missing: Tensor, dead: Tensor
    ) -> dict[str, Tensor]:
        """The AuxK and the pre-activation loss. ``missing``: outputs minus reconstruction."""
        c, parts = self.config, {}
        features = [dead[layer].nonzero()[:, 0] for layer in self]
        pres = [
            torch.addmm(self.b_enc[layer][index], inputs[layer], self.W_enc[layer][index].T)
            for layer, index in enumerate(features)
        ]
        if c.aux_k:
            auxiliary = self._auxiliary_reconstruction(features, pres, inputs)
            mean_square = self.grid.sum(missing.square().mean((1, 2)), DATA) / self.grid.n_data
            error = losses.relative_error(auxiliary, missing, mean_square)
            parts["aux"] = c.aux_coefficient * error
        if c.preactivation_coefficient:
            layer_losses = [
                self._preactivation_loss(layer, features[layer], pres[layer]) for layer in self
            ]
            total = self._sum_shards(torch.stack(layer_losses).mean())
            parts["preactivation"] = c.preactivation_coefficient * total
        return parts

    def _auxiliary_reconstruction(
        self, features: list[Tensor], pres: list[Tensor], inputs: Tensor
    ) -> Tensor:
        """What the ``aux_k`` most active of some features write, [layer, token, d_model]."""
        active, values = [], []
        for layer, (index, pre) in enumerate(zip(features, pres, strict=True)):
            detached = pre.detach()
            mask = detached >= thresholds.token_threshold(detached, self.config.aux_k, self.grid)
            pairs = sparse.active_from_columns(mask, index, self.n_features)
            W, b = self.W_enc[layer], self.b_enc[layer]
            active.append(pairs)
            values.append(sparse.Encode.apply(pairs, inputs[layer], W, b, detached[mask]))
        return self.grid.sum_features(sparse.decode(active, values, self.decoders))

    def _preactivation_loss(self, layer: int, index: Tensor, pre: Tensor) -> Tensor:
        """Mean over tokens of Σ relu(threshold − pre) · ‖W_dec,i‖ over some features."""
        norm = self._decoder_norm(layer)[index]  # constant, or decoders would shrink instead
        return ((self._feature_thresholds(layer)[index] - pre).relu() * norm).sum(1).mean()

    def _feature_thresholds(self, layer: int) -> Tensor:
        """The pre-activation above which each feature is active, [feature]."""
        if self.config.activation == "jumprelu":
            return self.log_threshold[layer].exp()
        rank = self.last_thresholds[layer] if self.last_thresholds is not None else 0.0
        return rank / self._decoder_norm(layer).clamp(min=1e-12)

    def _sum_shards(self, term: Tensor) -> Tensor:
        """The sum of a term over the shards, with the gradient of this shard's part."""
        others = self.grid.sum(term, FEATURES) - term.detach()
        return term + others

    # The result

    def layer_weights(self, layer: int) -> LayerWeights:
        """One layer's full weights, in normalized units."""
        full = self.grid.full
        return LayerWeights(
            W_enc=full(self.W_enc[layer].detach(), 0),
            b_enc=full(self.b_enc[layer].detach(), 0),
            W_dec=torch.stack([full(W.detach(), 0) for W in self.tables(layer)], dim=1),
            b_dec=self.b_dec[layer].detach(),
            W_skip=self.W_skip[layer].detach() if self.config.skip else None,
        )

    def to_dictionary(
        self,
        normalization: Normalization,
        threshold: Float[Tensor, " layer"],
        model_name: str,
    ) -> Transcoder:
        """The dictionary for raw activations. ``threshold`` is BatchTopK's, calibrated, in units of
        activation · decoder norm."""
        c = self.config
        layers = [normalization.fold(layer, self.layer_weights(layer)) for layer in self]
        dictionary_type = CrossLayerTranscoder if c.kind == "clt" else TranscoderSet
        return dictionary_type(
            layers,
            self._activation(threshold),
            feature_input_hook=c.feature_input_hook,
            feature_output_hook=c.feature_output_hook,
            model_name=model_name,
        )

    def _activation(self, threshold: Tensor) -> Activation:
        match self.config.activation:
            case "batchtopk":
                norms = torch.stack([self._decoder_norm(layer) for layer in self])
                return JumpReLU(threshold[:, None] / self.grid.full(norms, 1).clamp(min=1e-12))
            case "jumprelu":
                return JumpReLU(self.grid.full(self.log_threshold.detach().exp(), 1))
            case "topk":
                return TopK(self.config.k)
            case _:
                return ReLU()


def _count(active: Active, acts: Tensor) -> Tensor:
    """Number of tokens on which each feature is active, [feature]."""
    positive = (acts.detach() > 0).float()
    return torch.bincount(active.feature, weights=positive, minlength=active.n_features)
