"""Activations by SAELens's multi-hook ``ActivationsStore``, where it serves, and where not.

``get_multi_hook_activations`` gives the tensors at several hooks from one forward pass, for tokens
that are handed to it, and that is used. It declines, and the host's own ``read_mlps`` is used,

- where what features read or write is no hook's own value: an MLP's input after the norm's weight
  on a HookedTransformer, an MLP's output before a post-norm;
- where it would compute the logits of every token, which are larger than all that is read:
  ``stop_at_layer`` prevents that on a HookedTransformer, and on a TransformerBridge, which cannot
  stop after its last block, only a Hugging Face model that takes ``logits_to_keep``;
- with transformer-lens 4, for which there is no sae-lens.

Not used are the store's token iterator and its mixing buffer: that shuffles by PyTorch's global
random state and keeps what is left of a batch for the next, so a run cannot be resumed bit for bit,
it packs texts into rows but has no rows of one text with padding to be left out, and it does not
divide a batch among processes.
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
    """A reader for :func:`tl_attribution.training.activation_reader.register_reader`, or None."""
    hooks = host.plain_hooks(read, write) if isinstance(host, TransformerLensHost) else None
    options = _without_logits(model)
    if hooks is None or options is None:
        return None
    reads, writes = hooks
    store = _store(model, host, [*reads, *writes], options)
    device = next(iter(model.parameters())).device

    def read_rows(rows: Contexts) -> MlpPairs:
        found = store.get_multi_hook_activations(rows.ids.to(device))
        inputs, outputs = (torch.stack([found[h] for h in side], 2) for side in (reads, writes))
        return MlpPairs(_full(inputs), _full(outputs))

    return read_rows


def _full(values: torch.Tensor) -> torch.Tensor:
    """As the host's own reader gives them: in fp32 where the model is in a half precision."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _without_logits(model: Any) -> dict[str, Any] | None:
    """Options of a run that leave the unembedding out, or None where there are none."""
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
            # Never read: the rows come from our own sources. It is looked at once.
            dataset=[{"tokens": [0, 0]}],  # type: ignore[arg-type]  # a Dataset would warn
            hook_names=names,
            hook_d_ins=dict.fromkeys(names, host.d_model),
            context_size=2,
            model_kwargs=options,
        )
