"""An activation reader that uses SAELens's multi-hook ``ActivationsStore``.

``get_multi_hook_activations`` returns the activations at several hooks from one forward pass on
given tokens. The reader declines, so that the host's ``read_mlps`` is used,

- if what features read or write is not the value of one hook: an MLP's input after the norm's
  weight on a HookedTransformer, an MLP's output before a post-norm;
- if it would compute the logits of every token, which are larger than all activations that are
  read: ``stop_at_layer`` prevents that on a HookedTransformer, and on a TransformerBridge, which
  cannot stop after its last block, only a Hugging Face model that accepts ``logits_to_keep``;
- with transformer-lens 4, for which there is no sae-lens.

The store's token iterator and mixing buffer are not used. The buffer shuffles by PyTorch's global
random state and keeps the rest of a batch for the next, so that a run could not be resumed bit for
bit; it packs texts into rows, but does not support one padded text per row; and it does not divide
a batch among processes.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch

from tl_attribution.hosts.protocols import MlpPairs, Trainable
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.plugins.transformer_lens.adapter import TransformerLensHost
from tl_attribution.training.activation_reader import ActivationReader
from tl_attribution.training.contexts import Contexts


def reader(
    model: Any, host: Trainable, read: ReadSite, write: WriteSite
) -> ActivationReader | None:
    """A reader by SAELens's store, or None where it cannot be used."""
    hooks = host.plain_hooks(read, write) if isinstance(host, TransformerLensHost) else None
    options = _without_logits(model)
    if hooks is None or options is None:
        return None
    read_hooks, write_hooks = hooks
    store = _store(model, host, [*read_hooks, *write_hooks], options)
    device = next(iter(model.parameters())).device

    def read_rows(rows: Contexts) -> MlpPairs:
        activations = store.get_multi_hook_activations(rows.ids.to(device))
        inputs, outputs = (
            torch.stack([activations[hook] for hook in layers], 2)
            for layers in (read_hooks, write_hooks)
        )
        return MlpPairs(_in_fp32(inputs), _in_fp32(outputs))

    return read_rows


def _in_fp32(values: torch.Tensor) -> torch.Tensor:
    """Values in fp32 or higher, as those of the host's reader."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _without_logits(model: Any) -> dict[str, Any] | None:
    """Options of a forward pass that skip the unembedding, or None if the model has none."""
    hugging_face = getattr(model, "original_model", None)
    if hugging_face is None:
        return {}
    accepted = inspect.signature(hugging_face.forward).parameters
    if "logits_to_keep" not in accepted:
        return None
    return {"logits_to_keep": 1, "output_attentions": False}


def _store(model: Any, host: Trainable, hooks: list[str], options: dict[str, Any]) -> Any:
    from sae_lens.training.activations_store import ActivationsStore

    names = list(dict.fromkeys(hooks))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ActivationsStore.from_config_multi_hook(
            model,
            # Only its first row is looked at: tokens come from the training package's contexts.
            dataset=[{"tokens": [0, 0]}],  # type: ignore[arg-type]  # a Dataset would warn
            hook_names=names,
            hook_d_ins=dict.fromkeys(names, host.d_model),
            context_size=2,
            model_kwargs=options,
        )
