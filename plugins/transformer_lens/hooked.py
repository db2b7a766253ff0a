"""HookedTransformer (transformer-lens 2.16 to 3.x): TransformerLens's own modules and weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from tl_attribution.plugins.transformer_lens.adapter import (
    AttentionWeights,
    NormWeights,
    TransformerLensHost,
)

_MAJOR = int(version("transformer-lens").split(".")[0])
"""transformer-lens 2 hooks a LayerNorm after its weight and bias, later ones before."""


class HookedTransformerHost(TransformerLensHost):
    """Reads weights in TransformerLens's layout. Folded norms have no weight of their own."""

    def attention(self, layer: int) -> AttentionWeights:
        """Grouped heads keep their un-repeated values under an underscore."""
        attn = self.model.blocks[layer].attn

        def values(name: str) -> Tensor:
            own = getattr(attn, f"_{name}", None)
            return getattr(attn, name) if own is None else own

        return AttentionWeights(values("W_V"), values("b_V"), attn.W_O, attn.b_O)

    def norm(self, hooks: str, module: nn.Module) -> NormWeights:
        """LayerNorm centres, RMSNorm does not; the folded forms are named ...Pre."""
        kind = type(module).__name__
        return NormWeights(
            hooks,
            kind.startswith("LayerNorm"),
            getattr(module, "w", None),
            getattr(module, "b", None),
            hooked_late=kind == "LayerNorm" and _MAJOR < 3,
        )

    def new_cache(self, rows: int) -> Any:
        """TransformerLens's own cache, which was renamed in version 3."""
        import transformer_lens

        name = "HookedTransformerKeyValueCache" if _MAJOR < 3 else "TransformerLensKeyValueCache"
        return getattr(transformer_lens, name).init_cache(self.model.cfg, self.device, rows)

    def caching(self, cache: Any, token_ids: Tensor) -> dict[str, Any]:
        """With a cache, tokens that could be padding are masked unless told not to be."""
        mask = torch.ones_like(token_ids, device=self.device)
        return {"past_kv_cache": cache, "attention_mask": mask}

    def replace_before_norm(
        self, layer: int, hook: Callable[..., Tensor]
    ) -> tuple[list[tuple[str, Callable[..., Tensor]]], Any]:
        """There is no named hook between MLP and post-norm, so the module itself is hooked."""

        def replaced(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return hook(output)

        return [], self.model.blocks[layer].mlp.register_forward_hook(replaced)
