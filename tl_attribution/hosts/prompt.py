"""Tokenize prompts, and resolve the length of their prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.shapes import TokenIds

Prompt = Union[str, Sequence[int], Tensor]  # noqa: UP007  # evaluated on Python 3.10


def token_ids(host: Traceable, prompt: Prompt) -> TokenIds:
    """Tokenize a prompt, onto the CPU. Text gets the BOS token where the model expects one; ids are
    used as they are. Raises InputError for an empty prompt, ids outside the vocabulary, or more
    tokens than the model's context."""
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
                f"expected a prompt of token ids as one list of integers, got {ids.dtype} of shape "
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


def resolve_prefix(host: Traceable, ids: TokenIds, prefix: int | None) -> int:
    """Resolve the prefix's length; None means 1 if the first token is BOS, else 0.

    Raises InputError unless it leaves at least one position."""
    if prefix is None:
        starts_with_bos = host.bos_token_id is not None and int(ids[0]) == host.bos_token_id
        return min(int(starts_with_bos), len(ids) - 1)
    if not 0 <= prefix < len(ids):
        raise InputError(
            f"prefix must be between 0 and {len(ids) - 1} for this prompt, got {prefix}"
        )
    return prefix
