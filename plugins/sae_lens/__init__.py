"""SAELens: its activation store reads activations for training where it serves. :func:`install`
runs when sae_lens is imported."""

from __future__ import annotations

from types import ModuleType


def install(module: ModuleType) -> None:
    """Offer the store to the trainer. Installing twice changes nothing."""
    from tl_attribution.plugins.sae_lens.store import reader
    from tl_attribution.training.reading import register_reader

    register_reader(reader)
