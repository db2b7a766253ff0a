"""SAELens: cross-layer transcoders as an architecture of its, its transcoders and releases as
dictionaries, its models as hosts, and its activation store for training where it serves.
:func:`install` runs when sae_lens is imported."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_attribution.dictionaries.base import Dictionary
    from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE


def install(module: ModuleType) -> None:
    """Register all of it. Installing twice changes nothing."""
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
    """A cross-layer transcoder as an SAE of SAELens, its weights copied; ``tla.load_dictionary``
    gives it back. Raises InputError for dictionaries of another kind, and for what SAELens has no
    place for."""
    import sae_lens  # noqa: F401  # runs install, which must not begin in the middle of cross_layer

    from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
    from tl_attribution.errors import InputError
    from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE

    if not isinstance(dictionary, CrossLayerTranscoder):
        raise InputError(
            f"only a cross-layer transcoder becomes one SAE of SAELens; this is a {dictionary!r}"
        )
    return CrossLayerTranscoderSAE.from_dictionary(dictionary)
