"""From what a user calls a prompt to token ids, and how long its prefix is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.replacement.host import Host
from tl_attribution.shapes import TokenIds

Prompt = Union[str, Sequence[int], Tensor]  # noqa: UP007  # evaluated on Python 3.10


def token_ids(host: Host, prompt: Prompt) -> TokenIds:
    """Token ids of a prompt, on the CPU. Text gets the BOS token where the model wants one; ids are
    taken as they are. Raises InputError for an empty prompt, ids outside the vocabulary, or more
    tokens than the context holds."""
    if isinstance(prompt, str):
        if not prompt:
            raise InputError("the prompt is empty; give at least one word")
        ids = torch.tensor(host.tokenize(prompt, with_bos=True))
    else:
        ids = torch.as_tensor(prompt)
        if ids.numel() == 0:
            raise InputError("the prompt is empty; give at least one token")
        if ids.ndim == 2 and ids.shape[0] == 1:
            ids = ids[0]
        if ids.ndim != 1 or ids.dtype.is_floating_point:
            raise InputError(
                f"a prompt of token ids is one list of integers, got {ids.dtype} of shape "
                f"{tuple(ids.shape)}"
            )
    if len(ids) == 0:
        raise InputError("the prompt has no tokens; give at least one word")
    if len(ids) > host.n_ctx:
        raise InputError(f"the prompt has {len(ids)} tokens; {host.name} takes {host.n_ctx}")
    outside = ids[(ids < 0) | (ids >= host.d_vocab)]
    if len(outside):
        raise InputError(
            f"token id {int(outside[0])} is outside {host.name}'s vocabulary of {host.d_vocab}"
        )
    return ids.long().cpu()


def resolve_prefix(host: Host, ids: TokenIds, prefix: int | None) -> int:
    """Length of the prefix: ``None`` asks whether the first token is BOS. Raises InputError unless
    it leaves at least one position."""
    if prefix is None:
        found = int(host.bos_token_id is not None and int(ids[0]) == host.bos_token_id)
        return min(found, len(ids) - 1)
    if not 0 <= prefix < len(ids):
        raise InputError(
            f"prefix must be between 0 and {len(ids) - 1} for this prompt, got {prefix}"
        )
    return prefix


def compute_in_fp32(model: Any) -> Any:
    """The model itself, or on a CPU a copy in fp32 where its weights are bf16 or fp16: processors
    without such units are hundreds of times slower in them, and a graph would carry their rounding.
    """
    weights = next(iter(model.parameters()), None)
    if weights is None or weights.device.type != "cpu":
        return model
    if weights.dtype not in (torch.bfloat16, torch.float16):
        return model
    converted = copy.deepcopy(model)
    converted.cfg.dtype = torch.float32
    return converted.to(torch.float32)
