"""TransformerLens: adapts HookedTransformer and TransformerBridge, and adds the method
``attribution_graph`` to both. :func:`install` runs when transformer_lens is imported, whichever of
the two packages is imported first."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def install(module: ModuleType) -> None:
    """Serve the model classes that this version of transformer_lens has. Installing twice changes
    nothing."""
    from tl_attribution.attribution.attribute import attribute
    from tl_attribution.extend import HOSTS, MODEL_LOADERS
    from tl_attribution.plugins.transformer_lens.bridge import BridgeHost
    from tl_attribution.plugins.transformer_lens.hooked import HookedTransformerHost
    from tl_attribution.plugins.transformer_lens.loading import load

    MODEL_LOADERS.register("transformer_lens", load)
    for owner, name, adapter in (
        (module, "HookedTransformer", HookedTransformerHost),
        (_model_bridge(), "TransformerBridge", BridgeHost),
    ):
        model_type = _class(owner, name)
        if model_type is not None:
            HOSTS.register(model_type, adapter)
            # The function itself, so that help() shows its signature and its documentation.
            model_type.attribution_graph = attribute


def _class(owner: ModuleType | None, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except ImportError:  # raised by transformer-lens 4 for HookedTransformer
        return None


def _model_bridge() -> ModuleType | None:
    try:
        from transformer_lens import model_bridge
    except ImportError:  # transformer-lens 2.x
        return None
    return model_bridge
