"""Every reader, in the order in which they are asked whether a folder is theirs."""

from __future__ import annotations

from types import ModuleType

from tl_attribution.dictionaries.formats import (
    circuit_tracer,
    clt_training,
    crosslayer_coding,
    crosslayer_transcoder,
    gemma_scope,
    llamascopium,
    native,
    sae_lens,
    sae_lens_clt,
)

READERS: tuple[ModuleType, ...] = (
    native,
    llamascopium,
    crosslayer_transcoder,
    crosslayer_coding,
    circuit_tracer,
    sae_lens_clt,
    sae_lens,
    clt_training,
    gemma_scope,
)


def needs() -> str:
    """What each format is recognised by, in one line."""
    each = "; ".join(f"{reader.NAME}: {reader.NEEDS}" for reader in READERS)
    return f"Formats and what they need: {each}"
