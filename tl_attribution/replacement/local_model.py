"""The local replacement model: a prompt's run with its MLP outputs written as features + error.

It is affine in what its nodes write. This module lists those writes; the engines in ``attribution``
turn them into edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.hosts.sites import ReadSite
from tl_attribution.replacement.active_features import ActiveFeatures, encode_prompt
from tl_attribution.replacement.prompt_run import PromptRun
from tl_attribution.shapes import Stream, Streams


@dataclass(frozen=True, eq=False)
class Readouts:
    """Targets that read at one site: the pre-activation of row r is
    ``vectors[r] · x[layer[r], position[r]] + bias[r]``."""

    site: ReadSite
    layer: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    vectors: Float[Tensor, "row d_model"]
    bias: Float[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.layer)


@dataclass(frozen=True, eq=False)
class EdgeRows:
    """Edges into some targets: columns are features, errors (by layer, then position), tokens, and
    positions where the model has them. ``constant`` is what comes from things that are not nodes.
    """

    edges: Float[Tensor, "row source"]
    constant: Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class LocalReplacementModel:
    """One prompt's run, written as features, errors and ``base``: ``base[l]`` is what MLP l writes
    besides features, errors and the linear part of a skip, which is the decoder bias and, at the
    prefix, the MLP's own output. Made by :func:`build_local_model`."""

    run: PromptRun
    features: ActiveFeatures
    errors: Streams
    base: Streams

    @property
    def n_errors(self) -> int:
        """Error nodes: one per layer and position after the prefix."""
        return self.run.n_layers * (self.run.n_positions - self.run.prefix)

    @property
    def n_sources(self) -> int:
        """Columns of :class:`EdgeRows`."""
        inputs = 1 if self.run.snapshot.position_embedding is None else 2
        return len(self.features) + self.n_errors + inputs * self.run.n_positions

    def reads(self, layer: int, rows: Int[Tensor, " row"]) -> Readouts:
        """Readouts of features of one layer, given as rows of ``features``."""
        features = self.features.select(rows)
        x = self.run.reads[layer]
        vectors, bias = self.run.dictionary.reads(layer, x, features.position, features.index)
        return Readouts(self.run.sites.read_site, features.layer, features.position, vectors, bias)

    def writes(self, layer: int, target: int, rows: Int[Tensor, " row"]) -> Tensor:
        """What features of ``layer`` (rows of ``features``) write into MLP ``target``: activation
        times decoder."""
        return _writes(self.run, self.features.select(rows), layer, target)

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """The linear skip of a layer, [out, in], in the stream's dtype."""
        return _skip(self.run, layer)


def build_local_model(run: PromptRun, n_positions: int | None = None) -> LocalReplacementModel:
    """Encode the prompt and write every MLP's output as features + error + base.

    Features after ``n_positions`` are left out: no target that matters can see them.
    """
    n = run.n_positions if n_positions is None else n_positions
    features = encode_prompt(run.dictionary, lambda layer: run.reads[layer], run.prefix, n)
    written = torch.stack(run.written)
    explained = _reconstruction(run, features, written)
    base, errors = torch.zeros_like(written), torch.zeros_like(written)
    start = run.prefix
    for layer in range(run.n_layers):
        linear, constant = _skip_output(run, layer)
        base[layer] = constant
        base[layer, :start] += written[layer, :start] - linear[:start]
        errors[layer, start:] = (written[layer] - explained[layer] - linear)[start:]
        if (bias := run.dictionary.decoder_bias(layer)) is not None:
            base[layer, start:] += bias.to(base)
            errors[layer, start:] -= bias.to(base)
    return LocalReplacementModel(run, features, errors, base)


def _reconstruction(run: PromptRun, features: ActiveFeatures, reference: Streams) -> Streams:
    """Sum of all active features' writes, by layer and position."""
    out = torch.zeros_like(reference)
    positions = torch.arange(run.n_positions, device=out.device)
    for layer in range(run.n_layers):
        of_layer = features.select((features.layer == layer).nonzero().flatten())
        to_position = (of_layer.position == positions[:, None]).to(out)
        for target in run.dictionary.written_layers(layer) if len(of_layer) else ():
            out[target] += to_position @ _writes(run, of_layer, layer, target)
    return out


def _writes(run: PromptRun, features: ActiveFeatures, layer: int, target: int) -> Tensor:
    dictionary, activation = run.dictionary, features.activation
    decoders = dictionary.writes(layer, features.index, target).to(activation)
    written = dictionary.written_activation(layer, features.index, target, activation)
    return written[:, None] * decoders


def _skip(run: PromptRun, layer: int) -> Float[Tensor, "d_model d_model"] | None:
    skip = run.dictionary.skip(layer)
    return None if skip is None else skip.to(run.written[layer])


def _skip_output(run: PromptRun, layer: int) -> tuple[Stream, Stream]:
    """The skip's output at what is measured, and the part of it that no stream causes (the read
    norm's bias through the skip)."""
    zeros = torch.zeros_like(run.written[layer])
    skip = _skip(run, layer)
    if skip is None:
        return zeros, zeros
    measured = run.reads[layer] @ skip.T
    norm = run.snapshot.norm(layer)
    if run.sites.read_site.norm != "affine" or norm.bias is None:
        return measured, zeros
    return measured, zeros + skip @ norm.bias
