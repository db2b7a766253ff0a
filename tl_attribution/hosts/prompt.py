"""Prompts: text, chat messages or token ids become token ids and the length of their prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.shapes import TokenIds

ChatMessage = Mapping[str, Any]
"""One turn of a conversation: ``{"role": "user", "content": "…"}``; a template may read more."""

Prompt = Union[  # noqa: UP007  # evaluated on Python 3.10
    str, Sequence[int], Tensor, Sequence[ChatMessage], Mapping[str, Any]
]
"""Text, token ids (also as a tensor of shape [position] or [1, position]), chat messages, or what a
tokenizer returns: a mapping with ``input_ids``."""

OPENING_ROLES = ("user", "system")
"""Roles that a conversation usually begins with: each has an opening in a chat template."""


class ResolvedPrompt(NamedTuple):
    """A prompt's token ids, on the CPU, and how many of them are the prefix."""

    token_ids: TokenIds
    prefix: int


def resolve_prompt(host: Traceable, prompt: Prompt, prefix: int | None) -> ResolvedPrompt:
    """Token ids and prefix of a prompt. The prefix is ``prefix``, or for None the leading positions
    that every prompt shares: the BOS token, and the opening of the model's chat template where the
    prompt begins with it, up to the first message's text. With a system message that is what
    precedes the system message. It follows from the ids alone, so that messages, the text and the
    ids that ``apply_chat_template`` gives are the same prompt.

    Raises InputError for a prompt that cannot be run and a prefix that leaves no position.
    """
    ids = token_ids(host, prompt)
    length = resolve_prefix(host, ids, prefix)
    if prefix is None:
        length = min(max(length, _opening_length(host, ids)), len(ids) - 1)
    return ResolvedPrompt(ids, length)


def token_ids(host: Traceable, prompt: Prompt) -> TokenIds:
    """Token ids of a prompt, on the CPU. Text gets the BOS token where the model wants one and the
    text does not begin with it; messages are put into the model's chat template; ids are taken as
    they are. Raises InputError for an empty prompt, messages without a user turn or that the
    template refuses, ids outside the vocabulary, or more tokens than the context holds."""
    if isinstance(prompt, str):
        if not prompt:
            raise InputError("the prompt is empty; give at least one word")
        ids = torch.tensor(host.tokenize(prompt, with_bos=True))
    elif _is_chat(prompt):
        ids = torch.tensor(host.chat_token_ids(_checked_messages(prompt)))
    else:
        ids = _as_ids(_input_ids(prompt) if isinstance(prompt, Mapping) else prompt)
    if len(ids) == 0:
        raise InputError("the prompt has no tokens; give at least one word")
    if len(ids) > host.n_ctx:
        raise InputError(f"the prompt has {len(ids)} tokens; {host.name} takes {host.n_ctx}")
    check_vocabulary(host, ids)
    return ids.long().cpu()


def check_vocabulary(host: Traceable, ids: TokenIds) -> None:
    """Raise InputError for a token id that the model does not have."""
    outside = ids[(ids < 0) | (ids >= host.d_vocab)]
    if len(outside):
        raise InputError(
            f"token id {int(outside[0])} is outside {host.name}'s vocabulary of {host.d_vocab}"
        )


def resolve_prefix(host: Traceable, ids: TokenIds, prefix: int | None) -> int:
    """Length of the prefix: ``None`` asks whether the first token is BOS. Raises InputError unless
    it leaves at least one position."""
    if prefix is None:
        n_bos = int(host.bos_token_id is not None and int(ids[0]) == host.bos_token_id)
        return min(n_bos, len(ids) - 1)
    if not 0 <= prefix < len(ids):
        raise InputError(
            f"prefix must be between 0 and {len(ids) - 1} for this prompt, got {prefix}"
        )
    return prefix


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and any(isinstance(item, Mapping) for item in prompt)


def _checked_messages(messages: Any) -> Sequence[ChatMessage]:
    """The messages. Raises InputError unless each has a role and a text, one is the user's, and the
    last one says something."""
    for number, message in enumerate(messages):
        texts = [message.get(key) for key in ("role", "content")] if _is_mapping(message) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts) or not texts[0]:
            raise InputError(
                f"messages[{number}] is {message!r}; expected {{'role': 'user', 'content': "
                "'some text'}, both strings"
            )
    if not any(message["role"] == "user" for message in messages):
        roles = ", ".join(repr(message["role"]) for message in messages)
        raise InputError(
            f"the messages have no user turn, only {roles}; give at least one message "
            "{'role': 'user', 'content': ...}"
        )
    if not messages[-1]["content"]:
        raise InputError("the last message is empty; leave it out, or give it a text")
    return messages


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _input_ids(encoding: Mapping[str, Any]) -> Any:
    """The ids of what a tokenizer returned. Raises InputError for another mapping, and for padding,
    which the model would read as text."""
    if "input_ids" not in encoding:
        hint = "; a chat is a list of messages" if "content" in encoding else ""
        raise InputError(
            f"a mapping as a prompt is what a tokenizer returns, with input_ids, got the keys "
            f"{', '.join(map(repr, encoding))}{hint}"
        )
    mask = encoding.get("attention_mask")
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        raise InputError(
            "the prompt is padded: its attention_mask has zeros; tokenize it with padding=False"
        )
    return encoding["input_ids"]


def _as_ids(values: Any) -> Tensor:
    """One row of ids. Raises InputError for what is not integers of shape [n] or [1, n]."""
    try:
        ids = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"expected a prompt: text, chat messages or one list of token ids, got {values!r:.80}"
        ) from error
    if ids.numel() == 0:
        raise InputError("the prompt is empty; give at least one token")
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.dtype.is_floating_point:
        raise InputError(
            f"a prompt of token ids is one list of integers, got {ids.dtype} of shape "
            f"{tuple(ids.shape)}"
        )
    return ids


def _opening_length(host: Traceable, ids: TokenIds) -> int:
    """How many leading positions hold the opening of the chat template, 0 if the prompt does not
    begin with it. A text may merge with the opening's last token, which then does not count."""
    longest, prompt = 0, ids.tolist()
    for role in OPENING_ROLES:
        opening = host.chat_opening(role)
        shared = common_length(opening, prompt)
        if shared == len(opening) or _merged(host, opening[shared:], prompt[shared:]):
            longest = max(longest, shared)
    return longest


def _merged(host: Traceable, opening: list[int], prompt: list[int]) -> bool:
    """Whether what is left of the opening is one token that begins the prompt's next one."""
    if len(opening) != 1 or not prompt:
        return False
    (last,), (following,) = host.token_strings(opening), host.token_strings(prompt[:1])
    return following.startswith(last)


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading items, such as token ids or characters, two sequences share."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
