"""Where features read and write. Sites are values; hosts look them up by hook name."""

from __future__ import annotations

from typing import Literal, NamedTuple

Place = Literal["resid_pre", "mlp"]
Norm = Literal["none", "normalized", "affine"]


class ReadSite(NamedTuple):
    """What features read at their layer.

    ``place``: the residual stream before the block (``resid_pre``), or what the block's MLP branch
    starts from (``mlp``: after the attention, or the same as ``resid_pre`` where attention and MLP
    run in parallel). ``norm``: the stream itself; centered and divided by the frozen scale
    (``normalized``); or with the norm's weight and bias too, as the MLP sees it (``affine``). At
    layer ``n_layers`` the place is the final residual stream and the norm the final one.
    """

    place: Place
    norm: Norm


class WriteSite(NamedTuple):
    """What features reconstruct: the MLP's output as it is added to the residual stream, or, with
    ``before_norm``, as it is before the block's post-norm (the same where there is none)."""

    before_norm: bool


LOGITS = ReadSite("resid_pre", "affine")
"""What the unembedding reads, at layer ``n_layers``."""

RESIDUAL = ReadSite("resid_pre", "none")
"""The residual stream before a block, or the final one."""
