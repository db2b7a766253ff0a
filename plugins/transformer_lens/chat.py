"""Chat messages to token ids, by the chat template of a TransformerLens model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_attribution.errors import InputError
from tl_attribution.hosts.prompt import common_length
from tl_attribution.plugins.transformer_lens.tokens import model_name, require_tokenizer

PROBES = ("0", "a")
"""Two texts that share no beginning."""


def chat_token_ids(model: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation as ``apply_chat_template`` gives them, up to where the
    assistant's text begins, or goes on if the last message is the assistant's. Raises InputError
    without a tokenizer or a template, and for messages that the template refuses."""
    tokenizer = require_tokenizer(model)
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{model_name(model)} has no chat template, so it is not a chat model; give the text "
            "itself, or set model.tokenizer.chat_template"
        )
    goes_on = messages[-1]["role"] == "assistant"
    encoding = _rendered(
        model,
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )
    return list(encoding["input_ids"])


def chat_opening(model: Any, role: str) -> list[int]:
    """The tokens that the template puts before the text of a first message of this role, whatever
    that text is. Empty without a template, and where the template refuses the role."""
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return []
    rest = [] if role == "user" else [{"role": "user", "content": PROBES[0]}]
    try:
        texts = [
            _rendered(model, [{"role": role, "content": probe}, *rest], tokenize=False)
            for probe in PROBES
        ]
    except InputError:
        return []
    opening = texts[0][: common_length(*texts)]
    if opening in texts:  # the text of this role is not rendered
        return []
    return list(tokenizer(opening, add_special_tokens=False)["input_ids"])


def _rendered(model: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    try:
        return model.tokenizer.apply_chat_template([dict(m) for m in messages], **options)
    except Exception as error:  # a template is a program of its author's, which may raise anything
        raise InputError(
            f"the chat template of {model_name(model)} refuses these messages: {error}"
        ) from error
