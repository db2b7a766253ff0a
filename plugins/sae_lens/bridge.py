"""The adapter of SAELens's SAETransformerBridge.

Its ``hook_dict`` lacks the names of TransformerLens that TransformerBridge's has, such as
blocks.0.hook_resid_pre for blocks.0.hook_in, and the hook that it restores where an SAE was
attached has lost its full name. A run silently ignores hooks of such names. Here each hook has its
full name and is addressed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sae_lens import SAETransformerBridge
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.plugins.sae_lens.hooked import check_nothing_attached
from tl_attribution.plugins.transformer_lens.bridge import BridgeHost


class AliasedBridge:
    """The model, whose runs take every name of a hook."""

    def __init__(self, model: SAETransformerBridge) -> None:
        self.model = model
        hooks = model.hook_dict
        for name, hook in hooks.items():
            if hook.name not in hooks:
                hook.name = name
        aliased = super(SAETransformerBridge, model).hook_dict
        self.full_names = {
            alias: str(hook.name) for alias, hook in aliased.items() if isinstance(hook, HookPoint)
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run_with_cache(
        self, tokens: Tensor, names_filter: Callable[[str], bool], **options: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As the model's ``run_with_cache``."""
        names = {alias: full for alias, full in self.full_names.items() if names_filter(alias)}
        out, cache = self.model.run_with_cache(
            tokens, names_filter=set(names.values()).__contains__, **options
        )
        return out, {alias: cache[full] for alias, full in names.items() if full in cache}

    def run_with_hooks(
        self, tokens: Tensor, fwd_hooks: list[tuple[str, Callable[..., Any]]], **options: Any
    ) -> Any:
        """As the model's ``run_with_hooks``."""
        hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
            (self.full_names.get(name, name), hook) for name, hook in fwd_hooks
        ]
        return self.model.run_with_hooks(tokens, fwd_hooks=hooks, **options)


class SaeBridgeHost(BridgeHost):
    """A SAETransformerBridge as :class:`~tl_attribution.hosts.protocols.Host`."""

    def __init__(self, model: SAETransformerBridge) -> None:
        check_nothing_attached(model)
        super().__init__(AliasedBridge(model))

    def plain_hooks(self, read: ReadSite, write: WriteSite) -> tuple[list[str], list[str]] | None:
        """Each layer's hooks that hold exactly what features read and write, by full name."""
        hooks = super().plain_hooks(read, write)
        if hooks is None:
            return None
        reads, writes = ([self.model.full_names[name] for name in names] for names in hooks)
        return reads, writes
