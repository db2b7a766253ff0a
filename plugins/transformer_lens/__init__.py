"""TransformerLens: serves HookedTransformer and TransformerBridge, and gives both the method
``attribution_graph``. :func:`install` runs when transformer_lens is imported, first or last."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_attribution.dictionaries.base import Dictionary
    from tl_attribution.graph.graph import Graph
    from tl_attribution.hosts.prompt import Prompt


def attribution_graph(self: Any, prompt: Prompt, dictionary: Dictionary, **options: Any) -> Graph:
    """The attribution graph of one prompt: see :func:`tl_attribution.attribute`, which this calls
    with the model as its first argument."""
    from tl_attribution.attribution.attribute import attribute

    return attribute(self, prompt, dictionary, **options)


def install(module: ModuleType) -> None:
    """Serve the model classes that this version of transformer_lens has. Installing twice changes
    nothing."""
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
            model_type.attribution_graph = attribution_graph


def _class(owner: ModuleType | None, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except ImportError:  # how transformer-lens 4 says that HookedTransformer is gone
        return None


def _model_bridge() -> ModuleType | None:
    try:
        from transformer_lens import model_bridge
    except ImportError:  # transformer-lens 2.x
        return None
    return model_bridge
