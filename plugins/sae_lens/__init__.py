"""The SAELens plugin: cross-layer transcoders as an SAE architecture, transcoders and releases as
dictionaries, models as hosts, and the activation store for training.
:func:`install` runs when sae_lens is imported."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_attribution.dictionaries.base import Dictionary
    from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE


def install(module: ModuleType) -> None:
    """Register the plugin. Installing twice changes nothing."""
    from tl_attribution.dictionaries.plugin_sources import register_source
    from tl_attribution.hosts.protocols import register_host
    from tl_attribution.plugins.sae_lens.cross_layer import register
    from tl_attribution.plugins.sae_lens.hooked import SaeHookedHost
    from tl_attribution.plugins.sae_lens.releases import SOURCE
    from tl_attribution.plugins.sae_lens.store import reader
    from tl_attribution.training.activation_reader import register_reader

    register_reader(reader)
    register_source(SOURCE)
    register()
    register_host(module.HookedSAETransformer, SaeHookedHost)
    if hasattr(module, "SAETransformerBridge"):  # with transformer-lens 3
        from tl_attribution.plugins.sae_lens.bridge import SaeBridgeHost

        register_host(module.SAETransformerBridge, SaeBridgeHost)


def to_sae_lens(dictionary: Dictionary) -> CrossLayerTranscoderSAE:
    """Convert a cross-layer transcoder to an SAE of SAELens, copying its weights;
    ``tla.load_dictionary`` converts it back. Raises InputError for dictionaries of another kind and
    for weights that SAELens has no place for."""
    import sae_lens  # noqa: F401  # runs install, which must not begin in the middle of cross_layer

    from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
    from tl_attribution.errors import InputError
    from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE

    if not isinstance(dictionary, CrossLayerTranscoder):
        raise InputError(
            f"only a cross-layer transcoder becomes one SAE of SAELens; this is a {dictionary!r}"
        )
    return CrossLayerTranscoderSAE.from_dictionary(dictionary)
