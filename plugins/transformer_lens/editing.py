"""Forward passes of several rows with edited MLP outputs and attention patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import UnsupportedModelError
from tl_attribution.hosts.protocols import EditMlps
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.plugins.transformer_lens import hook_names

Hook = Callable[..., Any]


class EditedPass:
    """The hooks of one edited forward pass of a TransformerLensHost; removed when it ends."""

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
        self.inputs: dict[int, Tensor] = {}
        self.edited: set[int] = set()
        self.patterned: set[int] = set()

    def logits(
        self, token_ids: Int[Tensor, "row position"], options: dict[str, Any]
    ) -> Float[Tensor, "row position vocab"]:
        """Run the model and return its logits; ``options`` go to its forward pass."""
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
        """A layer's named hooks, and the handle of a module hook to remove, or None."""
        host = self.host

        def read(tensor: Tensor, hook: Any = None) -> None:
            self.inputs[layer] = host.read_from_hook(
                layer, tensor.to(host.compute_dtype), self.read
            )

        def edit(tensor: Tensor, hook: Any = None) -> Tensor:
            self.edited.add(layer)
            output = self.edit(layer, self.inputs[layer], tensor.to(host.compute_dtype))
            return output.to(tensor)

        def set_pattern(tensor: Tensor, hook: Any = None) -> Tensor:
            self.patterned.add(layer)
            assert self.patterns is not None
            return self.patterns[layer].to(tensor).expand_as(tensor)

        named: list[tuple[str, Hook]] = [(host.read_hook(layer, self.read), read)]
        if self.patterns is not None:
            named.append((hook_names.block(layer, "attn.hook_pattern"), set_pattern))
        if self.write.before_norm and host.post_norm_name(layer, "ln2_post"):
            more, handle = host.replace_before_norm(layer, edit)
            return named + more, handle
        return [*named, (hook_names.block(layer, "hook_mlp_out"), edit)], None

    def _check(self) -> None:
        layers = set(range(self.host.n_layers))
        lacking = layers - self.edited
        if self.patterns is not None:
            lacking |= layers - self.patterned
        if lacking:
            raise UnsupportedModelError(
                f"{self.host.name}: block {min(lacking)} never passes the hooks where its MLP's "
                "output or its attention pattern would be set, so nothing there can be changed"
            )
