"""One forward pass and all that is frozen on it, as plain tensors that owe nothing to the host.

A snapshot proves itself when it is made: run again from the embeddings with everything frozen, it
must give back the host's residual streams, norms and logits.
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
    """One block on one prompt. ``mlp_out`` is what is added to the stream; ``mlp_raw`` the same
    before the post-norm. ``parallel``: the MLP reads the stream from before the attention."""

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
        """The stream after the block, from the host's own activations."""
        return self.resid_pre + self.attention(self.resid_pre) + self.mlp_out

    def written(self, site: WriteSite) -> Stream:
        """The MLP's output as measured at a write site."""
        if site.before_norm and self.mlp_raw is not None:
            return self.mlp_raw
        return self.mlp_out

    def add(self, written: Stream, site: WriteSite) -> Stream:
        """What the stream receives when ``written`` is the MLP's output at ``site``."""
        if site.before_norm and self.mlp_post_norm is not None:
            return self.mlp_post_norm(written)
        return written


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A prompt on a host: what attribution needs, and the logits to prove it by."""

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
        """The stream that the MLP branch of a layer starts from, given the one before the block."""
        block = self.blocks[layer]
        return resid_pre if block.parallel else resid_pre + block.attention(resid_pre)

    def norm(self, layer: int) -> FrozenNorm:
        """The norm that a read site at ``layer`` goes through."""
        return self.final_norm if layer == len(self.blocks) else self.blocks[layer].mlp_norm

    def read(self, layer: int, site: ReadSite) -> Stream:
        """What the host holds at a read site, measured where it has a hook, else recomputed."""
        if layer == len(self.blocks):
            return at_site(self.final_resid, self.final_norm, site)
        block = self.blocks[layer]
        if site.norm == "none":
            if site.place == "resid_pre":
                return block.resid_pre
            return self.mlp_stream(layer, block.resid_pre)
        normalized = block.mlp_normalized
        return normalized if site.norm == "normalized" else block.mlp_norm.weighted(normalized)

    def unembed(self, resid: Stream) -> Float[Tensor, "position vocab"]:
        """Logits of a final residual stream, norm frozen, soft cap applied."""
        out = self.final_norm(resid) @ self.W_U
        out = out if self.b_U is None else out + self.b_U
        return out if self.soft_cap is None else self.soft_cap * torch.tanh(out / self.soft_cap)

    def prove(self, tolerance: float) -> None:
        """Raise ProofError, naming the first part that differs, unless the frozen model at the
        prompt's own activations gives back the host's streams, norms and logits.

        ``tolerance`` is relative to the largest value of each compared tensor.
        """
        resid = self.embedded
        for layer, block in enumerate(self.blocks):
            _same(f"residual stream before block {layer}", resid, block.resid_pre, tolerance)
            stream = self.mlp_stream(layer, resid)
            normalized = block.mlp_norm.normalized(stream)
            name = f"normalised MLP input of block {layer}"
            _same(name, normalized, block.mlp_normalized, tolerance)
            if block.mlp_raw is not None:
                added = block.add(block.mlp_raw, WriteSite(before_norm=True))
                _same(f"MLP post-norm of block {layer}", added, block.mlp_out, tolerance)
            resid = resid + block.attention(resid) + block.mlp_out
        _same("final residual stream", resid, self.final_resid, tolerance)
        _same("logits", self.unembed(resid), self.logits, tolerance)


def at_site(stream: Stream, norm: FrozenNorm, site: ReadSite) -> Stream:
    """What is read of ``stream`` through ``norm``."""
    if site.norm == "none":
        return stream
    return norm.normalized(stream) if site.norm == "normalized" else norm(stream)


def _same(what: str, frozen: Tensor, host: Tensor, tolerance: float) -> None:
    error = float((frozen - host).abs().max() / host.abs().max().clamp(min=1e-30))
    if not error <= tolerance:
        raise ProofError(
            f"{what}: the frozen model differs from the host by {error:.1e} of the largest value "
            f"(allowed {tolerance:.0e}), so a graph would not describe this model. The host may "
            "compute something the adapter does not read, or a hook may be changing activations; "
            "run it without hooks, and report the architecture if it persists"
        )
