"""A prompt run again with some features clamped: as the frozen, linear model, or on the host.

Several runs that differ only in what is clamped are rows of one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.hosts.opening import editable
from tl_attribution.hosts.snapshot import Block
from tl_attribution.interventions.clamps import (
    ClampedChange,
    Clamps,
    add_writes,
    current_change,
    original_change,
)
from tl_attribution.replacement.prompt_run import PromptRun
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.shapes import Changes, StreamRows

Mlps = Literal["model", "replacement"]
"""What a recomputed MLP is: the model's own, or the dictionary's features plus the error of the
original run."""


class EditedRun(NamedTuple):
    """Several runs of a prompt: logits, and what features read at every layer."""

    logits: Float[Tensor, "row position vocab"]
    reads: Float[Tensor, "row layer position d_model"]


def run_frozen(run: PromptRun, clamps: Clamps, rows: int) -> EditedRun:
    """Attention patterns, norms and MLP outputs frozen (a linear skip stays a path): the local
    replacement model, along which the changes are transported forwards."""
    snapshot = run.snapshot
    change = snapshot.final_resid.new_zeros(rows, *snapshot.final_resid.shape)
    changes: list[ClampedChange | None] = []
    reads = []
    for layer, block in enumerate(snapshot.blocks):
        changes.append(original_change(clamps, layer))
        middle = change + block.attention.push(change)
        read = _read_change(run, layer, change, middle)
        reads.append(run.reads[layer] + read)
        change = middle + _mlp_change(run, block, changes, layer, read)
    logits = [snapshot.unembed(snapshot.final_resid + row) for row in change]
    return EditedRun(torch.stack(logits), torch.stack(reads, 1))


def _read_change(run: PromptRun, layer: int, before: Changes, middle: Changes) -> Changes:
    """How what features read changes, given how the stream does before and after the attention."""
    site, snapshot = run.sites.read_site, run.snapshot
    after_attention = site.place == "mlp" and not snapshot.blocks[layer].parallel
    stream, norm = middle if after_attention else before, snapshot.norm(layer)
    if site.norm == "none":
        return stream
    return norm.push(stream) if site.norm == "affine" else norm.normalized(stream)


def _mlp_change(
    run: PromptRun, block: Block, changes: list[ClampedChange | None], layer: int, read: Changes
) -> Changes:
    """How what the MLP adds to the stream changes."""
    skip = run.dictionary.skip(layer)
    through = torch.zeros_like(read) if skip is None else read @ skip.T.to(read)
    written = add_writes(run.dictionary, changes, layer, through)
    if run.sites.write_site.before_norm and block.mlp_post_norm is not None:
        return block.mlp_post_norm.push(written)
    return written


@dataclass(eq=False)
class MlpEdits:
    """What is done to the MLPs of one forward pass of several rows on the host.

    In the layers of ``constrained`` an MLP writes what it wrote on the original run, with the
    change of a linear skip and of the clamped features, and no other layer is changed. Without it
    the clamped features are changed wherever they write. Other MLPs write what the model's own do
    (``mlps`` ``model``), or the dictionary's reconstruction on this run plus its error on the
    original run (``replacement``). ``reads`` collects what features read, layer by layer.
    """

    run: PromptRun
    clamps: Clamps
    constrained: range | None = None
    mlps: Mlps = "model"
    reads: list[StreamRows] = field(default_factory=list)
    _changes: list[ClampedChange | None] = field(default_factory=list)
    _active: list[ActiveColumns] = field(default_factory=list)

    def __call__(self, layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
        """What the MLP of a layer writes instead of ``out``."""
        dictionary = self.run.dictionary
        self.reads.append(x)
        free = out if self.mlps == "model" else self._reconstruction(layer, x, out)
        if self.constrained is None:
            self._changes.append(current_change(dictionary, self.clamps, layer, x))
            return add_writes(dictionary, self._changes, layer, free)
        self._changes.append(original_change(self.clamps, layer))
        if layer not in self.constrained:
            return free
        base = self.run.written[layer].to(out).expand_as(out)
        if (skip := dictionary.skip(layer)) is not None:
            base = base + (x - self.run.reads[layer].to(x)) @ skip.T.to(x)
        return add_writes(dictionary, self._changes, layer, base)

    def _reconstruction(self, layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
        """The dictionary's reconstruction on this run plus its error on the original run; the
        prefix keeps the model's own output."""
        start, dictionary = self.run.prefix, self.run.dictionary
        x, after = x[:, start:], out[:, start:]
        self._active.append(encode_columns(dictionary, layer, x.flatten(0, 1)))
        reconstruction = reconstruct(
            dictionary, self._active, layer, x.flatten(0, 1), after.flatten(0, 1)
        ).view_as(after)
        error = self.run.errors[layer][start:].to(reconstruction)
        return torch.cat([out[:, :start], reconstruction + error], 1)


def run_on_host(
    edits: MlpEdits,
    token_ids: Int[Tensor, "row position"],
    *,
    freeze_attention: bool,
    cache: Any = None,
) -> EditedRun:
    """Run the host with these edits; ``freeze_attention`` holds its patterns at the prompt's."""
    sites, blocks = edits.run.sites, edits.run.snapshot.blocks
    logits = editable(sites.host).run_edited(
        token_ids,
        sites.read_site,
        sites.write_site,
        edits,
        patterns=[block.attention.pattern for block in blocks] if freeze_attention else None,
        cache=cache,
    )
    return EditedRun(logits, torch.stack(edits.reads, 1))
