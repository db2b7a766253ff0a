"""Answers as targets: the tokens of a text that follows the prompt, each at its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tl_attribution.attribution.targets import Target, TokenTarget
from tl_attribution.errors import InputError
from tl_attribution.hosts.answer import answer_token_ids, greedy_continuation
from tl_attribution.replacement.prompt_run import AttachedDictionary, PromptRun, prompt_run


class AnswerOptions(NamedTuple):
    """What is explained besides the next token: see :func:`tl_attribution.attribute`."""

    answer: str | Sequence[int] | None = None
    answer_token: int | None = None
    generate: int | None = None

    @property
    def explains_answer(self) -> bool:
        """Whether an answer is to be explained at all."""
        return self.answer is not None or self.generate is not None

    def settings(self) -> dict[str, Any]:
        """The options that were used, as a graph's settings hold them."""
        names = ("answer_token", "generate")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class ExplainedAnswer(NamedTuple):
    """An answer to a prompt of ``n_prompt`` tokens, and the numbers of the tokens to explain."""

    n_prompt: int
    token_ids: tuple[int, ...]
    explained: tuple[int, ...]

    @property
    def targets(self) -> list[Target]:
        """Each explained token's logit at the position before it, all of the same weight, which
        sum to 1."""
        weight, first = 1 / len(self.explained), self.n_prompt - 1
        return [TokenTarget(self.token_ids[i], first + i, weight) for i in self.explained]


def check_answer_options(options: AnswerOptions, targets: object) -> None:
    """Raise InputError for options that exclude each other or cannot be used."""
    answer, answer_token, generate = options
    if answer is not None and generate is not None:
        raise InputError(
            "answer and generate exclude each other: give the answer, or let the model"
        )
    if options.explains_answer and targets is not None:
        name = "answer" if generate is None else "generate"
        raise InputError(
            f"{name} and targets exclude each other: the answer's tokens are the targets; leave "
            "one out"
        )
    if answer_token is not None and not options.explains_answer:
        raise InputError("answer_token is the number of a token of answer= or generate=; give one")
    if generate is not None and generate < 1:
        raise InputError(f"generate must be at least 1, got {generate}")


def run_answer(prompt: PromptRun, options: AnswerOptions) -> tuple[PromptRun, ExplainedAnswer]:
    """The run of the prompt and of as much of the answer as its explained tokens follow.

    Raises InputError for an answer that does not fit the context or the prompt, and for a token
    number that the answer does not have.
    """
    ids, n_prompt = prompt.snapshot.token_ids, prompt.n_positions
    _check_length(prompt, options.generate or 1)
    if options.answer is None:
        tokens = greedy_continuation(prompt.sites, ids, options.generate or 1)
    else:
        tokens = answer_token_ids(prompt.host, ids, options.answer)
    explained = _explained(prompt, tokens, options)
    _check_length(prompt, explained[-1] + 1)
    answer = ExplainedAnswer(n_prompt, tuple(tokens), explained)
    before = tokens[: explained[-1]]
    if not before:
        return prompt, answer
    attached = AttachedDictionary(prompt.sites, prompt.dictionary)
    return prompt_run(attached, torch.cat([ids, torch.tensor(before)]), prompt.prefix), answer


def _explained(prompt: PromptRun, tokens: list[int], options: AnswerOptions) -> tuple[int, ...]:
    """Numbers of the tokens to explain: the one chosen, else all of an answer, or the last that was
    generated."""
    number, n = options.answer_token, len(tokens)
    if number is None:
        return tuple(range(n)) if options.generate is None else (n - 1,)
    if not -n <= number < n:
        parts = ", ".join(repr(token) for token in prompt.host.token_strings(tokens))
        raise InputError(
            f"answer_token={number}, but the answer has the {n} tokens {parts}; give 0 to {n - 1}, "
            "or -1 for the last"
        )
    return (number % n,)


def _check_length(prompt: PromptRun, n_answer: int) -> None:
    host, n = prompt.host, prompt.n_positions
    if n + n_answer - 1 > host.n_ctx:
        raise InputError(
            f"the prompt's {n} tokens and an answer of {n_answer} are more than the {host.n_ctx} "
            f"that {host.name} takes; {host.n_ctx - n + 1} tokens of answer can be explained"
        )
