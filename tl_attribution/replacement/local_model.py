"""The local replacement model: a snapshot with its MLP outputs written as features + error.

It is affine in what its nodes write. This module lists those writes; ``transport`` and ``oracle``
turn them into edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.hosts.snapshot import Snapshot
from tl_attribution.replacement.active_features import ActiveFeatures, encode
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
    positions where the model has them. ``constant`` is what comes from no node."""

    edges: Float[Tensor, "row source"]
    constant: Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class LocalReplacementModel:
    """One prompt, one dictionary. ``base[l]`` is what MLP l writes besides features, errors and the
    linear part of a skip: decoder bias, and at the prefix the MLP's own output."""

    snapshot: Snapshot
    dictionary: Dictionary
    read_site: ReadSite
    write_site: WriteSite
    prefix: int
    features: ActiveFeatures
    errors: Streams
    base: Streams

    @property
    def n_positions(self) -> int:
        """Length of the prompt."""
        return len(self.snapshot.token_ids)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.snapshot.blocks)

    @property
    def n_errors(self) -> int:
        """Error nodes: one a layer and position after the prefix."""
        return self.n_layers * (self.n_positions - self.prefix)

    @property
    def n_sources(self) -> int:
        """Columns of :class:`EdgeRows`."""
        inputs = 1 if self.snapshot.position_embedding is None else 2
        return len(self.features) + self.n_errors + inputs * self.n_positions

    def reads(self, layer: int, rows: Int[Tensor, " row"]) -> Readouts:
        """Readouts of features of one layer, given as rows of ``features``."""
        chosen = self.features.select(rows)
        x = self.snapshot.read(layer, self.read_site)
        vectors, bias = self.dictionary.reads(layer, x, chosen.position, chosen.index)
        return Readouts(self.read_site, chosen.layer, chosen.position, vectors, bias)

    def writes(self, layer: int, target: int, rows: Int[Tensor, " row"]) -> Tensor:
        """What features of ``layer`` (rows of ``features``) write into MLP ``target``: activation
        times decoder."""
        chosen = self.features.select(rows)
        decoders = self.dictionary.writes(layer, chosen.index, target).to(chosen.activation)
        written = self.dictionary.written_activation(layer, chosen.index, target, chosen.activation)
        return written[:, None] * decoders

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """The linear skip of a layer, [out, in], in the stream's dtype."""
        skip = self.dictionary.skip(layer)
        return None if skip is None else skip.to(self.errors)


def build(
    snapshot: Snapshot,
    dictionary: Dictionary,
    read_site: ReadSite,
    write_site: WriteSite,
    prefix: int,
    n_positions: int | None = None,
) -> LocalReplacementModel:
    """Encode the prompt and write every MLP's output as features + error + base.

    Features after ``n_positions`` are left out: no target that matters can see them.
    """
    n = len(snapshot.token_ids)
    features = encode(
        dictionary, lambda layer: snapshot.read(layer, read_site), prefix, n_positions or n
    )
    written = torch.stack([block.written(write_site) for block in snapshot.blocks])
    base = torch.zeros_like(written)
    local = LocalReplacementModel(
        snapshot, dictionary, read_site, write_site, prefix, features, written, base
    )
    explained = reconstruct(local)
    errors = torch.zeros_like(written)
    for layer in range(len(snapshot.blocks)):
        linear, constant = _affine(local, layer)
        base[layer] = constant
        base[layer, :prefix] += written[layer, :prefix] - linear[:prefix]
        errors[layer, prefix:] = (written[layer] - explained[layer] - linear)[prefix:]
        if (bias := dictionary.decoder_bias(layer)) is not None:
            base[layer, prefix:] += bias.to(base)
            errors[layer, prefix:] -= bias.to(base)
    return LocalReplacementModel(
        snapshot, dictionary, read_site, write_site, prefix, features, errors, base
    )


def reconstruct(local: LocalReplacementModel) -> Streams:
    """Sum of all active features' writes, by layer and position."""
    out = torch.zeros_like(local.errors)
    positions = torch.arange(local.n_positions, device=out.device)
    for layer in range(local.n_layers):
        rows = (local.features.layer == layer).nonzero().flatten()
        at = (local.features.position[rows] == positions[:, None]).to(out)
        for target in local.dictionary.written_layers(layer) if len(rows) else ():
            out[target] += at @ local.writes(layer, target, rows)
    return out


def _affine(local: LocalReplacementModel, layer: int) -> tuple[Stream, Stream]:
    """The skip's output at what is measured, and the part of it that no stream causes (the read
    norm's bias through the skip)."""
    zeros = torch.zeros_like(local.errors[layer])
    skip = local.skip(layer)
    if skip is None:
        return zeros, zeros
    measured = local.snapshot.read(layer, local.read_site) @ skip.T
    norm = local.snapshot.norm(layer)
    if local.read_site.norm != "affine" or norm.bias is None:
        return measured, zeros
    return measured, zeros + skip @ norm.bias
