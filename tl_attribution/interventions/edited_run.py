"""A prompt run again with some features held: as the frozen, linear model, or on the host.

Several runs that differ only in what is held are rows of one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.hosts.snapshot import Block, Snapshot
from tl_attribution.interventions import clamps as holding
from tl_attribution.interventions.clamps import ClampedChange, Clamps
from tl_attribution.replacement.replacement_model import ActiveColumns, encode, reconstruct
from tl_attribution.shapes import Changes, Stream, StreamRows


class EditedRun(NamedTuple):
    """What several runs gave: logits, and what features read at every layer."""

    logits: Float[Tensor, "row position vocab"]
    reads: Float[Tensor, "row layer position d_model"]


@dataclass(frozen=True, eq=False)
class PromptRun:
    """A prompt's own run, and the dictionary whose features will be held."""

    host: Host
    dictionary: Dictionary
    snapshot: Snapshot
    prefix: int

    @property
    def read_site(self) -> ReadSite:
        """Where features read."""
        return self.host.read_site(self.dictionary.feature_input_hook)

    @property
    def write_site(self) -> WriteSite:
        """Where features write."""
        return self.host.write_site(self.dictionary.feature_output_hook)

    @property
    def n_positions(self) -> int:
        """Length of the prompt."""
        return len(self.snapshot.token_ids)

    @cached_property
    def reads(self) -> list[Stream]:
        """What features read at every layer."""
        layers = range(len(self.snapshot.blocks))
        return [self.snapshot.read(layer, self.read_site) for layer in layers]

    @cached_property
    def written(self) -> list[Stream]:
        """What every MLP writes."""
        return [block.written(self.write_site) for block in self.snapshot.blocks]

    @cached_property
    def errors(self) -> list[Stream]:
        """What the dictionary misses at every layer; zero at the prefix."""
        first, active, found = self.prefix, list[ActiveColumns](), []
        for layer, (x, out) in enumerate(zip(self.reads, self.written, strict=True)):
            active.append(encode(self.dictionary, layer, x[first:]))
            made = reconstruct(self.dictionary, active, layer, x[first:], out[first:])
            found.append(torch.cat([torch.zeros_like(out[:first]), out[first:] - made]))
        return found


def direct(original: PromptRun, clamps: Clamps, rows: int) -> EditedRun:
    """Attention patterns, norms and MLP outputs frozen (a linear skip stays a path): the local
    replacement model, along which the changes are transported forwards."""
    snapshot = original.snapshot
    moved = snapshot.final_resid.new_zeros(rows, *snapshot.final_resid.shape)
    changes: list[ClampedChange | None] = []
    reads = []
    for layer, block in enumerate(snapshot.blocks):
        changes.append(holding.original_change(clamps, layer))
        middle = moved + block.attention.push(moved)
        read = _pushed(original, layer, moved, middle)
        reads.append(original.reads[layer] + read)
        moved = middle + _added(original, block, changes, layer, read)
    logits = [snapshot.unembed(snapshot.final_resid + row) for row in moved]
    return EditedRun(torch.stack(logits), torch.stack(reads, 1))


def _pushed(original: PromptRun, layer: int, before: Changes, middle: Changes) -> Changes:
    """How what features read changes, given how the stream does before and after the attention."""
    site, snapshot = original.read_site, original.snapshot
    late = site.place == "mlp" and not snapshot.blocks[layer].parallel
    stream, norm = middle if late else before, snapshot.norm(layer)
    if site.norm == "none":
        return stream
    return norm.push(stream) if site.norm == "affine" else norm.normalized(stream)


def _added(
    original: PromptRun,
    block: Block,
    changes: list[ClampedChange | None],
    layer: int,
    read: Changes,
) -> Changes:
    """How what the MLP adds to the stream changes."""
    dictionary = original.dictionary
    skip = dictionary.skip(layer)
    through = torch.zeros_like(read) if skip is None else read @ skip.T.to(read)
    written = holding.add_writes(dictionary, changes, layer, through)
    if original.write_site.before_norm and block.mlp_post_norm is not None:
        return block.mlp_post_norm.push(written)
    return written


@dataclass(eq=False)
class Edits:
    """What is done to the MLPs of one forward pass of several rows on the host.

    In the layers of ``held`` an MLP writes what it wrote on the original run, with the change of a
    linear skip and of the clamped features, and no other layer is changed. Without ``held`` the
    clamped features are changed wherever they write. An MLP that is not held writes what the
    model's own does (``mlps`` ``model``), or the dictionary's reconstruction on this run plus its
    error on the original run (``replacement``).
    """

    original: PromptRun
    clamps: Clamps
    held: range | None = None
    mlps: str = "model"

    def __post_init__(self) -> None:
        self.reads: list[StreamRows] = []
        self._changes: list[ClampedChange | None] = []
        self._active: list[ActiveColumns] = []

    def __call__(self, layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
        """What the MLP of a layer writes instead of ``out``."""
        dictionary = self.original.dictionary
        self.reads.append(x)
        free = out if self.mlps == "model" else self._reconstruction(layer, x, out)
        if self.held is None:
            self._changes.append(holding.change(dictionary, self.clamps, layer, x))
            return holding.add_writes(dictionary, self._changes, layer, free)
        self._changes.append(holding.original_change(self.clamps, layer))
        if layer not in self.held:
            return free
        base = self.original.written[layer].to(out).expand_as(out)
        if (skip := dictionary.skip(layer)) is not None:
            base = base + (x - self.original.reads[layer].to(x)) @ skip.T.to(x)
        return holding.add_writes(dictionary, self._changes, layer, base)

    def _reconstruction(self, layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
        """The dictionary's reconstruction on this run plus its error on the original run; the
        prefix keeps the model's own output."""
        first, dictionary = self.original.prefix, self.original.dictionary
        seen, like = x[:, first:], out[:, first:]
        self._active.append(encode(dictionary, layer, seen.flatten(0, 1)))
        made = reconstruct(
            dictionary, self._active, layer, seen.flatten(0, 1), like.flatten(0, 1)
        ).view_as(like)
        return torch.cat([out[:, :first], made + self.original.errors[layer][first:].to(made)], 1)


def on_host(
    edits: Edits, token_ids: Int[Tensor, "row position"], *, frozen: bool, cache: Any = None
) -> EditedRun:
    """Run the host with these edits; ``frozen`` holds its attention patterns at the prompt's."""
    original = edits.original
    logits = original.host.run_edited(
        token_ids,
        original.read_site,
        original.write_site,
        edits,
        patterns=[b.attention.pattern for b in original.snapshot.blocks] if frozen else None,
        cache=cache,
    )
    return EditedRun(logits, torch.stack(edits.reads, 1))
