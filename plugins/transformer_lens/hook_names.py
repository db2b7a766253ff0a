"""Hook names of TransformerLens. No other module of the project knows them."""

from __future__ import annotations

import re

from tl_attribution.errors import InputError, NotFoundError, nearest
from tl_attribution.hosts.sites import ReadSite, WriteSite

READ_SITES = {
    "hook_resid_pre": ReadSite("resid_pre", "none"),
    "hook_resid_mid": ReadSite("mlp", "none"),
    "hook_mlp_in": ReadSite("mlp", "none"),
    "ln2.hook_in": ReadSite("mlp", "none"),
    "ln2.hook_normalized": ReadSite("mlp", "normalized"),
    "ln2.hook_out": ReadSite("mlp", "affine"),
    "mlp.hook_in": ReadSite("mlp", "affine"),
}
WRITE_SITES = {
    "hook_mlp_out": WriteSite(before_norm=False),
    "ln2_post.hook_out": WriteSite(before_norm=False),
    "mlp.hook_out": WriteSite(before_norm=True),
}

MLP_INPUT = "mlp.hook_in"
MLP_OUTPUT = "mlp.hook_out"


def read_site(hook: str) -> ReadSite:
    """The site of a read hook. Raises NotFoundError, suggesting the nearest name."""
    if hook not in READ_SITES:
        raise NotFoundError(f"features cannot read at {hook!r}: {nearest(hook, READ_SITES)}")
    return READ_SITES[hook]


def write_site(hook: str) -> WriteSite:
    """The site of a write hook. Raises NotFoundError, suggesting the nearest name."""
    if hook not in WRITE_SITES:
        raise NotFoundError(f"features cannot write at {hook!r}: {nearest(hook, WRITE_SITES)}")
    return WRITE_SITES[hook]


def block(layer: int, hook: str) -> str:
    """The full name of a block's hook."""
    return f"blocks.{layer}.{hook}"


def split(name: str) -> tuple[int, str]:
    """Split a full name into layer and hook: the inverse of :func:`block`. Raises InputError for
    other names."""
    parts = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if parts is None:
        raise InputError(
            f"expected a hook of a block, such as 'blocks.0.mlp.hook_in', got {name!r}"
        )
    return int(parts[1]), parts[2]
