"""TransformerBridge (transformer-lens 3.x and 4.x): Hugging Face modules behind the same names, raw
or in compatibility mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tl_attribution.plugins.transformer_lens import hook_names
from tl_attribution.plugins.transformer_lens.adapter import (
    AttentionWeights,
    NormWeights,
    TransformerLensHost,
)


class BridgeHost(TransformerLensHost):
    """Reads weights through the bridge's own properties, which give TransformerLens's layout."""

    def attention(self, layer: int) -> AttentionWeights:
        """Weights of one block's attention, the values one per key/value head."""
        attn = self.model.blocks[layer].attn
        return AttentionWeights(attn.W_V, attn.b_V, attn.W_O, attn.b_O)

    def norm(self, hooks: str, module: nn.Module) -> NormWeights:
        """A norm's weights. Gemma stores them as an offset from one."""
        bridge: Any = module
        weight = getattr(bridge, "weight", None)
        if weight is not None and getattr(self.model.cfg, "rmsnorm_uses_offset", False):
            weight = weight + 1
        bias = None if bridge.uses_rms_norm else getattr(bridge.original_component, "bias", None)
        return NormWeights(hooks, not bridge.uses_rms_norm, weight, bias)

    def new_cache(self, rows: int) -> Any:
        """A cache of Hugging Face's transformers, which takes any number of rows."""
        from transformers import DynamicCache

        del rows
        return DynamicCache()

    def cache_options(self, cache: Any, token_ids: Tensor) -> dict[str, Any]:
        """Options of a forward pass with a cache, which grows as the model runs."""
        del token_ids
        return {"past_key_values": cache, "use_cache": True}

    def replace_before_norm(
        self, layer: int, hook: Callable[..., Tensor]
    ) -> tuple[list[tuple[str, Callable[..., Tensor]]], Any]:
        """Hook the MLP's output, which is before the post-norm."""
        return [(hook_names.block(layer, "mlp.hook_out"), hook)], None
