"""An activation reader by SAELens's multi-hook ``ActivationsStore``.

``get_multi_hook_activations`` returns the activations at several hooks from one forward pass of
given tokens. The reader declines, and the host's ``read_mlps`` is used instead,

- if no hook holds exactly what features read or write: an MLP's input after the norm's weight on a
  HookedTransformer, an MLP's output before a post-norm;
- if it would compute the logits of every token, which are larger than everything that is read:
  ``stop_at_layer`` prevents that on a HookedTransformer; a TransformerBridge cannot stop after its
  last block, so there only a Hugging Face model that takes ``logits_to_keep`` does;
- with transformer-lens 4, which no sae-lens supports.

The store's token iterator and mixing buffer are not used: the buffer shuffles by PyTorch's global
random state and keeps the rest of a batch for the next, so a run could not be resumed bit for bit;
it packs texts into rows but has no rows of one text with padding; and it does not divide a batch
among processes.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tl_attribution.hosts.protocols import MlpPairs, Trainable
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.plugins.transformer_lens.adapter import TransformerLensHost
from tl_attribution.training.contexts import Contexts


def reader(
    model: Any, host: Trainable, read: ReadSite, write: WriteSite
) -> Callable[[Contexts], MlpPairs] | None:
    """A reader by SAELens's store, or None where it cannot be used."""
    hooks = host.plain_hooks(read, write) if isinstance(host, TransformerLensHost) else None
    options = _without_logits(model)
    if hooks is None or options is None:
        return None
    reads, writes = hooks
    store = _store(model, host, [*reads, *writes], options)
    device = next(iter(model.parameters())).device

    def read_rows(rows: Contexts) -> MlpPairs:
        activations = store.get_multi_hook_activations(rows.ids.to(device))
        inputs, outputs = (
            torch.stack([activations[hook] for hook in hooks], 2) for hooks in (reads, writes)
        )
        return MlpPairs(_at_least_fp32(inputs), _at_least_fp32(outputs))

    return read_rows


def _at_least_fp32(values: torch.Tensor) -> torch.Tensor:
    """In fp32 if the model is in half precision, as the host's reader returns them."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _without_logits(model: Any) -> dict[str, Any] | None:
    """Options of a run without the unembedding, or None if the model cannot leave it out."""
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
            # Required, but only its first row is inspected: the rows come from our sources.
            dataset=[{"tokens": [0, 0]}],  # type: ignore[arg-type]  # a Dataset would warn
            hook_names=names,
            hook_d_ins=dict.fromkeys(names, host.d_model),
            context_size=2,
            model_kwargs=options,
        )
