"""The dictionary while it is trained: its weights in normalised units, and one step's loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_attribution.dictionaries.activations import Activation, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.dictionaries.transcoder import LayerWeights, Transcoder
from tl_attribution.training import losses, sparse, sparse_encoder, thresholds
from tl_attribution.training.buffer import Batch
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import DATA, FEATURES, ProcessGrid
from tl_attribution.training.normalization import Normalization
from tl_attribution.training.sparse import Active

SHARES = 0.93, 0.5, 0.0
"""A threshold is searched for above this share of the guess; if it lies below, above the next: the
lower, the more entries are found, and at zero half of all."""
SAMPLE = 64
"""Tokens from which the first threshold is guessed."""


class StepResult(NamedTuple):
    """A step's loss and what is worth knowing of it. ``parts`` are the terms of the loss; ``error``
    [layer] is this process's; ``active`` [layer, feature] counts tokens."""

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    error: Float[Tensor, " layer"]
    active: Float[Tensor, "layer feature"]


class _Layer(NamedTuple):
    """Entries of one layer that are computed: their places and pre-activations [active]."""

    at: Active
    values: Tensor


class TrainingTranscoder(nn.Module):
    """Weights of all layers; with several shards, this process's features only.

    Drawn as in the methods paper ("Cross-layer transcoder training"): encoders uniform within
    ±1/√n_features, decoders within ±1/√(n_layers · d_model), biases zero.
    """

    def __init__(
        self, config: TrainingConfig, n_layers: int, d_model: int, team: ProcessGrid
    ) -> None:
        super().__init__()
        self.config, self.team = config, team
        self.n_layers, self.d_model = n_layers, d_model
        self.n_features = config.n_features // config.feature_shards
        self.W_enc, self.W_dec = nn.ParameterList(), nn.ModuleList()
        for layer in range(n_layers):
            encoder, decoder = self._draw(layer)
            self.W_enc.append(nn.Parameter(team.local(encoder, 0)))
            tables = [nn.Parameter(team.local(table, 0).contiguous()) for table in decoder]
            self.W_dec.append(nn.ParameterList(tables))
        self.b_enc = nn.ParameterList([nn.Parameter(torch.zeros(self.n_features)) for _ in self])
        self.b_dec = nn.Parameter(torch.zeros(n_layers, d_model))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        if config.activation == "jumprelu":
            start = torch.full((n_layers, self.n_features), max(config.threshold, 1e-6)).log()
            self.log_threshold = nn.Parameter(start)
        self.last: list[float] | None = None
        """BatchTopK's thresholds of the step before, of each layer."""
        self._room: Tensor | None = None
        """Where each step's reconstruction goes: fresh memory costs more than the arithmetic."""
        self.to(team.device)

    def __iter__(self):
        """Layers by number."""
        return iter(range(self.n_layers))

    def _draw(self, layer: int) -> tuple[Tensor, Tensor]:
        c = self.config
        rng = torch.Generator().manual_seed((c.seed << 16) + layer)
        written = c.written(layer, self.n_layers)
        encoder = torch.empty(c.n_features, self.d_model)
        decoder = torch.empty(c.n_features, written, self.d_model)
        widest = (self.n_layers * self.d_model) ** -0.5
        encoder.uniform_(-(c.n_features**-0.5), c.n_features**-0.5, generator=rng)
        decoder.uniform_(-widest, widest, generator=rng)
        return encoder, decoder.transpose(0, 1)

    def tables(self, layer: int) -> list[Tensor]:
        """What a layer's features write, a table [feature, d_model] for each layer written to."""
        return list(self.W_dec[layer].parameters())

    @property
    def decoders(self) -> list[list[Tensor]]:
        """The tables of every layer."""
        return [self.tables(layer) for layer in self]

    def sharded(self, name: str) -> int | None:
        """The dimension along which a parameter is divided by feature, or None if it is not."""
        kind = name.split(".")[0]
        return {"W_enc": 0, "W_dec": 0, "b_enc": 0, "log_threshold": 1}.get(kind)

    # One step

    def forward(self, batch: Batch, step: int, dead: Bool[Tensor, "layer feature"]) -> StepResult:
        """The loss of one batch, in normalised units. ``dead`` marks features that AuxK and the
        pre-activation loss should bring back."""
        c = self.config
        layers = self._encode(batch.inputs, step)
        acts = [self._gate(layer, made) for layer, made in enumerate(layers)]
        if self._room is None or self._room.shape != batch.outputs.shape:
            self._room = torch.empty(batch.outputs.shape, device=self.team.device)
        written = sparse.decode([made.at for made in layers], acts, self.decoders, self._room)
        recon = self.team.sum_features(written).add_(self.b_dec[:, None])
        if c.skip:
            recon += batch.inputs @ self.W_skip.mT
        error = recon.detach().sub_(batch.outputs)  # nothing else needs the reconstruction
        squared = losses.MeanSquare.apply(recon, error)
        parts = {"error": squared.mean()}
        if c.activation in ("jumprelu", "relu"):
            ats = [made.at for made in layers]
            penalty = losses.tanh_penalty(ats, acts, self.decoders, c.tanh_scale)
            parts["sparsity"] = c.sparsity_at(step) * self._over_shards(penalty)
        if (c.aux_k or c.preactivation) and self.team.any(bool(dead.any())):
            parts |= self._revive(batch.inputs, -error, dead)
        return StepResult(
            loss=torch.stack(list(parts.values())).sum(),
            parts={name: part.detach() for name, part in parts.items()},
            error=squared.detach(),
            active=torch.stack([_count(m.at, a) for m, a in zip(layers, acts, strict=True)]),
        )

    def _encode(self, inputs: Tensor, step: int) -> list[_Layer]:
        with torch.no_grad():
            found, thresholds = self._choose(inputs, step)
        made = []
        for layer, (some, least) in enumerate(zip(found, thresholds, strict=True)):
            at, pre = some.above(least)
            W, b = self.W_enc[layer], self.b_enc[layer]
            made.append(_Layer(at, sparse.Encode.apply(at, inputs[layer], W, b, pre)))
        return made

    def _choose(self, inputs: Tensor, step: int) -> tuple[list[thresholds.Found], list[float]]:
        """Entries that may be active, and the least rank of each layer's that are."""
        exact = [0.0] * self.n_layers
        if self.config.activation != "batchtopk":
            return self._find(inputs, step, exact), [-math.inf] * self.n_layers
        active, least_ranks, guess = [], [None], self._guess(inputs, step)
        for share in SHARES:
            active = self._find(inputs, step, [share * least for least in guess])
            least_ranks = self._thresholds(active, step)
            # All are known, or there are no more.
            if None not in least_ranks or max(guess) <= thresholds.TINY:
                break
        self.last = [thresholds.TINY if t is None else t for t in least_ranks]
        return active, self.last

    def _find(self, inputs: Tensor, step: int, hints: list[float]) -> list[thresholds.Found]:
        """Entries that may be active: above the hint, or as the activation has it."""
        kind, out = self.config.activation, []
        for layer in self:
            weight, least, k = None, torch.zeros_like(self.b_enc[layer]), None
            if kind == "batchtopk":
                weight = self._norm(layer)
                least = hints[layer] / weight.clamp(min=1e-12)
            elif kind == "jumprelu":
                least = self.log_threshold[layer].exp() - self.config.bandwidth / 2
            elif kind == "topk":
                k = self.config.k_at(step)
            encoder = sparse_encoder.Encoder(
                self.W_enc[layer], self.b_enc[layer], self.config.dtype
            )
            token, feature, pre = sparse_encoder.above(inputs[layer], encoder, least, k, self.team)
            rank = pre if weight is None else pre * weight.index_select(0, feature)
            size = inputs.shape[1], self.n_features
            out.append(thresholds.Found(token, feature, pre, rank, *size))
        return out

    def _norm(self, layer: int) -> Tensor:
        """Length of all that each feature writes, [feature]."""
        return sparse.written_norm([table.detach() for table in self.tables(layer)])

    # BatchTopK: the largest activations · decoder norms of a batch, over all layers or in each

    def _guess(self, inputs: Tensor, step: int) -> list[float]:
        """Each layer's threshold as of the last step or, at first, of a sample; the same in every
        process. Entries far below are never active, and need not be looked at."""
        if self.last is not None:
            return self.last
        some = self._find(inputs[:, :SAMPLE], step, [0.0] * self.n_layers)
        wanted = self.config.k_at(step) * some[0].n_tokens
        least = [
            float(found.rank.topk(wanted).values[-1]) if len(found.rank) > wanted else 0.0
            for found in some
        ]
        return [self.team.least(min(least))] * self.n_layers

    def _thresholds(self, found: list[thresholds.Found], step: int) -> list[float | None]:
        """The rank of number k · tokens, of all layers together or of each."""
        tokens = found[0].n_tokens * self.team.n_data
        wanted = self.config.k_at(step) * tokens
        if self.config.k_per_layer:
            return [thresholds.batch_threshold(some.rank, wanted, self.team) for some in found]
        ranks = torch.cat([some.rank for some in found])
        least = thresholds.batch_threshold(ranks, wanted * self.n_layers, self.team)
        return [least] * self.n_layers

    @torch.no_grad()
    def thresholds(self, inputs: Float[Tensor, "layer token d_model"]) -> Float[Tensor, " layer"]:
        """BatchTopK's thresholds on one batch, in units of activation · decoder norm."""
        _, least = self._choose(inputs, self.config.steps)
        return torch.tensor(least, device=inputs.device)

    def _gate(self, layer: int, made: _Layer) -> Tensor:
        if self.config.activation != "jumprelu":
            return made.values
        threshold = self.log_threshold[layer].exp()[made.at.feature]
        return losses.JumpGate.apply(made.values, threshold, self.config.bandwidth)

    def _revive(self, inputs: Tensor, missing: Tensor, dead: Tensor) -> dict[str, Tensor]:
        c, parts = self.config, {}
        columns = [dead[layer].nonzero()[:, 0] for layer in self]
        pres = [
            torch.addmm(self.b_enc[layer][index], inputs[layer], self.W_enc[layer][index].T)
            for layer, index in enumerate(columns)
        ]
        if c.aux_k:
            made_up = self._reconstruct_with(columns, pres, inputs)
            size = self.team.total(missing.square().mean((1, 2)), DATA) / self.team.n_data
            parts["aux"] = c.aux * losses.relative_error(made_up, missing, size)
        if c.preactivation:
            each = [self._push(layer, columns[layer], pres[layer]) for layer in self]
            total = self._over_shards(torch.stack(each).mean())
            parts["preactivation"] = c.preactivation * total
        return parts

    def _reconstruct_with(
        self, columns: list[Tensor], pres: list[Tensor], inputs: Tensor
    ) -> Tensor:
        """What the most active of the given features would write, [layer, token, d_model]."""
        ats, values = [], []
        for layer, (index, pre) in enumerate(zip(columns, pres, strict=True)):
            held = pre.detach()
            mask = held >= thresholds.token_threshold(held, self.config.aux_k, self.team)
            at = sparse.active_among(mask, index, self.n_features)
            W, b = self.W_enc[layer], self.b_enc[layer]
            ats.append(at)
            values.append(sparse.Encode.apply(at, inputs[layer], W, b, held[mask]))
        return self.team.sum_features(sparse.decode(ats, values, self.decoders))

    def _push(self, layer: int, index: Tensor, pre: Tensor) -> Tensor:
        """Mean over tokens of Σ relu(least − pre) · ‖W_dec,i‖ over dead features, ``least`` being
        what makes a feature active."""
        norm = self._norm(layer)[index]  # constant, or decoders would shrink instead
        return ((self._least(layer)[index] - pre).relu() * norm).sum(1).mean()

    def _least(self, layer: int) -> Tensor:
        """The pre-activation above which each feature is active, [feature]."""
        if self.config.activation == "jumprelu":
            return self.log_threshold[layer].exp()
        least = self.last[layer] if self.last is not None else 0.0
        return least / self._norm(layer).clamp(min=1e-12)

    def _over_shards(self, term: Tensor) -> Tensor:
        """A term that each shard has its part of, as a whole number with this shard's gradient."""
        others = self.team.total(term, FEATURES) - term.detach()
        return term + others

    # The result

    def layer_weights(self, layer: int) -> LayerWeights:
        """One layer's whole weights, in normalised units."""
        full = self.team.full
        return LayerWeights(
            W_enc=full(self.W_enc[layer].detach(), 0),
            b_enc=full(self.b_enc[layer].detach(), 0),
            W_dec=torch.stack([full(W.detach(), 0) for W in self.tables(layer)], dim=1),
            b_dec=self.b_dec[layer].detach(),
            W_skip=self.W_skip[layer].detach() if self.config.skip else None,
        )

    def to_dictionary(
        self, scales: Normalization, threshold: Float[Tensor, " layer"], model_name: str
    ) -> Transcoder:
        """The dictionary in raw model space. ``threshold`` is BatchTopK's, calibrated, in units of
        activation · decoder norm."""
        c = self.config
        layers = [scales.fold(layer, self.layer_weights(layer)) for layer in self]
        kind = CrossLayerTranscoder if c.kind == "clt" else TranscoderSet
        return kind(
            layers,
            self._activation(threshold),
            feature_input_hook=c.feature_input_hook,
            feature_output_hook=c.feature_output_hook,
            model_name=model_name,
        )

    def _activation(self, threshold: Tensor) -> Activation:
        match self.config.activation:
            case "batchtopk":
                norms = torch.stack([self._norm(layer) for layer in self])
                return JumpReLU(threshold[:, None] / self.team.full(norms, 1).clamp(min=1e-12))
            case "jumprelu":
                return JumpReLU(self.team.full(self.log_threshold.detach().exp(), 1))
            case "topk":
                return TopK(self.config.k)
            case _:
                return ReLU()


def _count(at: Active, acts: Tensor) -> Tensor:
    """How many tokens each feature is active on, [feature]."""
    on = (acts.detach() > 0).float()
    return torch.bincount(at.feature, weights=on, minlength=at.n_features)
