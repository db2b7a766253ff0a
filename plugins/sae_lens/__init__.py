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
    from tl_attribution.extend import ACTIVATION_READERS, DICTIONARY_SOURCES, HOSTS
    from tl_attribution.plugins.sae_lens.cross_layer import register
    from tl_attribution.plugins.sae_lens.hooked import SaeHookedHost
    from tl_attribution.plugins.sae_lens.releases import SOURCE
    from tl_attribution.plugins.sae_lens.store import reader

    ACTIVATION_READERS.register("sae_lens", reader)
    DICTIONARY_SOURCES.register("sae_lens", SOURCE)
    register()
    HOSTS.register(module.HookedSAETransformer, SaeHookedHost)
    if hasattr(module, "SAETransformerBridge"):  # with transformer-lens 3
        from tl_attribution.plugins.sae_lens.bridge import SaeBridgeHost

        HOSTS.register(module.SAETransformerBridge, SaeBridgeHost)


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
            "expected a cross-layer transcoder, which becomes one SAE of SAELens, got "
            f"{dictionary!r}"
        )
    return CrossLayerTranscoderSAE.from_dictionary(dictionary)
