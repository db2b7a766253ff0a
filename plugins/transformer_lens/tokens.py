"""Tokenize and detokenize with the tokenizer of a TransformerLens model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tl_attribution.errors import InputError


def tokenize(model: Any, text: str, with_bos: bool) -> list[int]:
    """Tokenize a text of any length with the model's ``to_tokens``; a BOS token that the text
    begins with is not put before it again."""
    tokenizer = require_tokenizer(model)
    if not with_bos:
        return model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()
    ids = model.to_tokens(text, truncate=False)[0].tolist()
    typed = _leading_bos(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids[_leading_bos(tokenizer, ids) - typed :] if typed else ids


def tokenize_all(model: Any, texts: Sequence[str], with_bos: bool) -> list[list[int]]:
    """Tokenize many texts in one call of the tokenizer, which is parallel if it is a fast one."""
    tokenizer = require_tokenizer(model)
    bos = tokenize(model, "", with_bos=True)[:1] if with_bos else []
    bos = bos if bos == [tokenizer.bos_token_id] else []
    if not texts:
        return []
    ids = tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return [bos + list(text_ids) for text_ids in ids]


def digest(model: Any) -> str:
    """A hash of the tokenizer: of its serialization if it is a fast one, else of its class and
    vocabulary."""
    tokenizer = require_tokenizer(model)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items())]
    else:
        serialized = json.loads(backend.to_str())
        content = {name: part for name, part in serialized.items() if name not in _CALL_SETTINGS}
    whole = json.dumps([content, tokenizer.bos_token_id, tokenize(model, "", with_bos=True)])
    return hashlib.sha256(whole.encode()).hexdigest()


def strings(model: Any, token_ids: list[int]) -> tuple[str, ...]:
    """Each token as text, its leading space kept; without a tokenizer, its number."""
    if model.tokenizer is None:
        return tuple(str(i) for i in token_ids)
    return tuple(_string(model.tokenizer, i) for i in token_ids)


_CALL_SETTINGS = ("truncation", "padding")
"""Parts of the serialization that the latest call of the tokenizer sets."""


def text(model: Any, token_ids: list[int]) -> str:
    """The text of some tokens, special ones included."""
    return require_tokenizer(model).decode(token_ids, clean_up_tokenization_spaces=False)


def special_ids(model: Any) -> tuple[int | None, int | None, int | None]:
    """The ids of BOS, EOS and the unknown token; None for those that there are not."""
    names = ("bos_token_id", "eos_token_id", "unk_token_id")
    bos, eos, unk = (getattr(model.tokenizer, name, None) for name in names)
    return bos, eos, unk


def model_name(model: Any) -> str:
    """What messages call the model."""
    return model.cfg.model_name or "unnamed model"


def require_tokenizer(model: Any) -> Any:
    """The model's tokenizer. Raises InputError if it has none."""
    if model.tokenizer is None:
        raise InputError(f"{model_name(model)} has no tokenizer; give token ids instead of text")
    return model.tokenizer


def _leading_bos(tokenizer: Any, ids: Sequence[int]) -> int:
    """How many BOS tokens the ids begin with."""
    return next((i for i, token in enumerate(ids) if token != tokenizer.bos_token_id), len(ids))


def _string(tokenizer: Any, token_id: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(piece, str) and piece.startswith("▁"):
        return piece.replace("▁", " ")
    return tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
