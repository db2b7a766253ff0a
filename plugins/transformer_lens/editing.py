"""A forward pass of several rows whose MLP outputs and attention patterns are edited on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import UnsupportedModelError
from tl_attribution.plugins.transformer_lens import names
from tl_attribution.replacement.host import EditMlps
from tl_attribution.replacement.sites import ReadSite, WriteSite

Hook = Callable[..., Any]


class Editing:
    """The hooks of one such pass on a TransformerLensHost; they are gone when it is over."""

    def __init__(
        self,
        host: Any,
        read: ReadSite,
        write: WriteSite,
        edit: EditMlps,
        patterns: Sequence[Float[Tensor, "head position position"]] | None,
    ) -> None:
        self.host, self.read, self.write, self.edit = host, read, write, edit
        self.patterns = patterns
        self.seen: dict[int, Tensor] = {}
        self.edited: set[int] = set()
        self.held: set[int] = set()

    def logits(
        self, token_ids: Int[Tensor, "row position"], options: dict[str, Any]
    ) -> Float[Tensor, "row position vocab"]:
        """Run the model; ``options`` go to its forward pass."""
        model, hooks, handles = self.host.model, [], []
        try:
            for layer in range(self.host.n_layers):
                named, handle = self._hooks(layer)
                hooks += named
                handles += [handle] if handle is not None else []
            with torch.no_grad():
                tokens = token_ids.to(self.host.device)
                out = model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits", **options)
        finally:
            for handle in handles:
                handle.remove()
        self._check()
        return out.detach()

    def _hooks(self, layer: int) -> tuple[list[tuple[str, Hook]], Any]:
        """Named hooks of a layer, and a handle to remove for what is no named hook."""
        host = self.host

        def look(tensor: Tensor, hook: Any = None) -> None:
            self.seen[layer] = host.at_site(layer, tensor.to(host.compute_dtype), self.read)

        def edit(tensor: Tensor, hook: Any = None) -> Tensor:
            self.edited.add(layer)
            made = self.edit(layer, self.seen[layer], tensor.to(host.compute_dtype))
            return made.to(tensor)

        def hold(tensor: Tensor, hook: Any = None) -> Tensor:
            self.held.add(layer)
            assert self.patterns is not None
            return self.patterns[layer].to(tensor).expand_as(tensor)

        named: list[tuple[str, Hook]] = [(host.read_hook(layer, self.read), look)]
        if self.patterns is not None:
            named.append((names.block(layer, "attn.hook_pattern"), hold))
        if self.write.before_norm and host.post_norm_name(layer, "ln2_post"):
            more, handle = host.replace_before_norm(layer, edit)
            return named + more, handle
        return [*named, (names.block(layer, "hook_mlp_out"), edit)], None

    def _check(self) -> None:
        every = set(range(self.host.n_layers))
        lacking = every - self.edited
        if self.patterns is not None:
            lacking |= every - self.held
        if lacking:
            raise UnsupportedModelError(
                f"{self.host.name}: block {min(lacking)} never passes the hooks where its MLP's "
                "output or its attention pattern would be set, so nothing there can be changed"
            )
