"""What follows a prompt: an answer's tokens, or those that the model finds most likely."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tl_attribution.errors import InputError
from tl_attribution.hosts.opening import ModelSites, editable
from tl_attribution.hosts.prompt import check_vocabulary, common_length
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.shapes import StreamRows, TokenIds


def answer_token_ids(host: Traceable, prompt: TokenIds, answer: str | Sequence[int]) -> list[int]:
    """Token ids of an answer to a prompt. A text is split as the tokenizer splits it after the
    prompt; ids are taken as they are.

    Raises InputError for an empty answer, ids or words outside the vocabulary, and a text that
    changes the prompt's last tokens: the model would not have read that prompt.
    """
    ids = _split(host, prompt, answer) if isinstance(answer, str) else [int(i) for i in answer]
    if not ids:
        raise InputError("the answer is empty; give at least one token")
    check_vocabulary(host, torch.tensor(ids))
    if isinstance(answer, str) and host.unk_token_id in ids:
        raise InputError(
            f"{host.name}'s vocabulary does not have all of the answer {answer!r}, which is read "
            f"as {_quoted(host, ids)}"
        )
    return ids


def greedy_continuation(sites: ModelSites, prompt: TokenIds, n: int) -> list[int]:
    """The ``n`` tokens that the model goes on with, each the most likely one; fewer if it ends the
    text, whose EOS token is then the last. Keys and values of what has been run are kept."""
    host = editable(sites.host)
    cache = host.new_cache(1)
    tokens: list[int] = []
    step = prompt[None]
    while len(tokens) < n and (not tokens or tokens[-1] != host.eos_token_id):
        logits = host.run_edited(step, sites.read_site, sites.write_site, _unedited, cache=cache)
        tokens.append(int(logits[0, -1].argmax()))
        step = torch.tensor([[tokens[-1]]])
    return tokens


def _unedited(layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
    del layer, x
    return out


def _split(host: Traceable, prompt: TokenIds, answer: str) -> list[int]:
    """The answer's tokens after the prompt. Where the prompt's ids have no text that gives them
    again (a word that the tokenizer does not know), those of the answer alone."""
    if not answer:
        raise InputError("the answer is empty; give at least one word")
    alone, before = host.tokenize(answer, with_bos=False), prompt.tolist()
    if before[0] == host.bos_token_id:
        before = before[1:]
    text = host.text(before)
    if host.tokenize(text, with_bos=False) != before:
        return alone
    together = host.tokenize(text + answer, with_bos=False)
    same = common_length(together, before)
    if same < len(before):
        raise InputError(
            f"the tokenizer splits the answer {answer!r} differently after the prompt than alone: "
            f"together they end in {_quoted(host, together[same:])}, apart in "
            f"{_quoted(host, before[same:])} and {_quoted(host, alone)}. Begin the answer with a "
            "space, end the prompt without one, or give the answer as token ids"
        )
    return together[len(before) :]


def _quoted(host: Traceable, ids: list[int]) -> str:
    return ", ".join(repr(token) for token in host.token_strings(ids)) or "nothing"
