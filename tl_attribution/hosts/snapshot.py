"""Snapshots: one forward pass with everything that is frozen on it, as plain tensors.

Adapters check every snapshot with :meth:`Snapshot.prove`: run again from the embeddings with
everything frozen, it must reproduce the host's residual streams, norms and logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.errors import ProofError
from tl_attribution.hosts.frozen_layers import FrozenAttention, FrozenNorm
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.shapes import Stream, TokenIds


@dataclass(frozen=True, eq=False)
class Block:
    """One block on one prompt. ``mlp_out`` is what the MLP adds to the stream; ``mlp_raw`` is its
    output before the post-norm. ``parallel``: the MLP reads the stream from before the attention.
    """

    attention: FrozenAttention
    mlp_norm: FrozenNorm
    resid_pre: Stream
    mlp_normalized: Stream
    mlp_out: Stream
    parallel: bool
    mlp_raw: Stream | None = None
    mlp_post_norm: FrozenNorm | None = None

    @property
    def resid_post(self) -> Stream:
        """The stream after the block, computed from the host's activations."""
        return self.resid_pre + self.attention(self.resid_pre) + self.mlp_out

    def written(self, site: WriteSite) -> Stream:
        """The MLP's output at a write site."""
        if site.before_norm and self.mlp_raw is not None:
            return self.mlp_raw
        return self.mlp_out

    def add(self, written: Stream, site: WriteSite) -> Stream:
        """Compute what is added to the stream when ``written`` is the MLP's output at ``site``."""
        if site.before_norm and self.mlp_post_norm is not None:
            return self.mlp_post_norm(written)
        return written


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A prompt's frozen forward pass, and the host's logits to check it against."""

    token_ids: TokenIds
    token_embedding: Stream
    position_embedding: Stream | None
    blocks: tuple[Block, ...]
    final_norm: FrozenNorm
    final_resid: Stream
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"] | None
    soft_cap: float | None
    logits: Float[Tensor, "position vocab"]

    @property
    def embedded(self) -> Stream:
        """The stream before the first block."""
        if self.position_embedding is None:
            return self.token_embedding
        return self.token_embedding + self.position_embedding

    def mlp_stream(self, layer: int, resid_pre: Stream) -> Stream:
        """Compute the stream that a layer's MLP branch starts from."""
        block = self.blocks[layer]
        return resid_pre if block.parallel else resid_pre + block.attention(resid_pre)

    def norm(self, layer: int) -> FrozenNorm:
        """The norm that a read site at ``layer`` goes through."""
        return self.final_norm if layer == len(self.blocks) else self.blocks[layer].mlp_norm

    def read(self, layer: int, site: ReadSite) -> Stream:
        """The host's activations at a read site: measured where it has a hook, else recomputed."""
        if layer == len(self.blocks):
            return read_through(self.final_norm, self.final_resid, site)
        block = self.blocks[layer]
        if site.norm == "none":
            if site.place == "resid_pre":
                return block.resid_pre
            return self.mlp_stream(layer, block.resid_pre)
        normalized = block.mlp_normalized
        return normalized if site.norm == "normalized" else block.mlp_norm.weighted(normalized)

    def unembed(self, resid: Stream) -> Float[Tensor, "position vocab"]:
        """Compute the logits of a final residual stream, with the norm frozen and the soft cap."""
        out = self.final_norm(resid) @ self.W_U
        out = out if self.b_U is None else out + self.b_U
        return out if self.soft_cap is None else self.soft_cap * torch.tanh(out / self.soft_cap)

    def prove(self, tolerance: float) -> None:
        """Check that the frozen model reproduces the host's streams, norms and logits. Raises
        ProofError that names the first part that differs.

        ``tolerance`` is relative to the largest value of each compared tensor.
        """
        resid = self.embedded
        for layer, block in enumerate(self.blocks):
            _check_same(f"residual stream before block {layer}", resid, block.resid_pre, tolerance)
            stream = self.mlp_stream(layer, resid)
            normalized = block.mlp_norm.normalized(stream)
            name = f"normalized MLP input of block {layer}"
            _check_same(name, normalized, block.mlp_normalized, tolerance)
            if block.mlp_raw is not None:
                added = block.add(block.mlp_raw, WriteSite(before_norm=True))
                _check_same(f"MLP post-norm of block {layer}", added, block.mlp_out, tolerance)
            resid = resid + block.attention(resid) + block.mlp_out
        _check_same("final residual stream", resid, self.final_resid, tolerance)
        _check_same("logits", self.unembed(resid), self.logits, tolerance)


def read_through(norm: FrozenNorm, stream: Stream, site: ReadSite) -> Stream:
    """Compute what a feature reads of ``stream`` at a site whose norm is ``norm``."""
    if site.norm == "none":
        return stream
    return norm.normalized(stream) if site.norm == "normalized" else norm(stream)


def _check_same(part: str, frozen: Tensor, host: Tensor, tolerance: float) -> None:
    error = float((frozen - host).abs().max() / host.abs().max().clamp(min=1e-30))
    if not error <= tolerance:
        raise ProofError(
            f"{part}: the frozen model differs from the host by {error:.1e} of the largest value "
            f"(allowed {tolerance:.0e}), so a graph would not describe this model. The host may "
            "compute something the adapter does not read, or a hook may be changing activations; "
            "run it without hooks, and report the architecture if it persists"
        )
