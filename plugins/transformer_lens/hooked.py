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
        """Weights of one block's attention. Where several query heads share a key/value head, its
        weights before they are repeated are under a name with an underscore."""
        attn = self.model.blocks[layer].attn

        def values(name: str) -> Tensor:
            unrepeated = getattr(attn, f"_{name}", None)
            return getattr(attn, name) if unrepeated is None else unrepeated

        return AttentionWeights(values("W_V"), values("b_V"), attn.W_O, attn.b_O)

    def norm(self, hooks: str, module: nn.Module) -> NormWeights:
        """A norm's weights. LayerNorm centers, RMSNorm does not; with folded weights their names
        end in Pre."""
        kind = type(module).__name__
        return NormWeights(
            hooks,
            kind.startswith("LayerNorm"),
            getattr(module, "w", None),
            getattr(module, "b", None),
            hooked_after_weight=kind == "LayerNorm" and _MAJOR < 3,
        )

    def new_cache(self, rows: int) -> Any:
        """A cache of TransformerLens, whose class was renamed in version 3."""
        import transformer_lens

        name = "HookedTransformerKeyValueCache" if _MAJOR < 3 else "TransformerLensKeyValueCache"
        return getattr(transformer_lens, name).init_cache(self.model.cfg, self.device, rows)

    def cache_options(self, cache: Any, token_ids: Tensor) -> dict[str, Any]:
        """Options of a forward pass with a cache. The mask keeps tokens that could be padding."""
        mask = torch.ones_like(token_ids, device=self.device)
        return {"past_kv_cache": cache, "attention_mask": mask}

    def replace_before_norm(
        self, layer: int, hook: Callable[..., Tensor]
    ) -> tuple[list[tuple[str, Callable[..., Tensor]]], Any]:
        """Hook the MLP's module: no named hook is between the MLP and its post-norm."""

        def replaced(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return hook(output)

        return [], self.model.blocks[layer].mlp.register_forward_hook(replaced)
