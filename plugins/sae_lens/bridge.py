"""SAELens's SAETransformerBridge as a host.

Its ``hook_dict`` leaves out the names of TransformerLens that TransformerBridge's has, such as
blocks.0.hook_resid_pre for blocks.0.hook_in, and the hook it puts back where an SAE was attached
has lost its full name. A run ignores hooks of such names and says nothing. Here each hook has its
full name and is asked for by it.
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


class Named:
    """The model, with runs that know each hook by all its names."""

    def __init__(self, model: SAETransformerBridge) -> None:
        self.model = model
        hooks = model.hook_dict
        for name, hook in hooks.items():
            if hook.name not in hooks:
                hook.name = name
        known = super(SAETransformerBridge, model).hook_dict
        self.own = {name: str(h.name) for name, h in known.items() if isinstance(h, HookPoint)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run_with_cache(
        self, tokens: Tensor, names_filter: Callable[[str], bool], **options: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As the model's own."""
        wanted = {name: own for name, own in self.own.items() if names_filter(name)}
        out, cache = self.model.run_with_cache(
            tokens, names_filter=set(wanted.values()).__contains__, **options
        )
        return out, {name: cache[own] for name, own in wanted.items() if own in cache}

    def run_with_hooks(
        self, tokens: Tensor, fwd_hooks: list[tuple[str, Callable[..., Any]]], **options: Any
    ) -> Any:
        """As the model's own."""
        hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
            (self.own.get(name, name), hook) for name, hook in fwd_hooks
        ]
        return self.model.run_with_hooks(tokens, fwd_hooks=hooks, **options)


class SaeBridgeHost(BridgeHost):
    """A SAETransformerBridge as :class:`~tl_attribution.hosts.protocols.Host`."""

    def __init__(self, model: SAETransformerBridge) -> None:
        check_nothing_attached(model)
        super().__init__(Named(model))

    def plain_hooks(self, read: ReadSite, write: WriteSite) -> tuple[list[str], list[str]] | None:
        """Each layer's hooks that hold just what is read and written, by the bridge's own names."""
        found = super().plain_hooks(read, write)
        if found is None:
            return None
        reads, writes = ([self.model.own[name] for name in side] for side in found)
        return reads, writes
