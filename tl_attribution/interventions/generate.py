"""``generate``: continue a prompt with features held at values, at the new tokens too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.hosts.opening import editable
from tl_attribution.interventions.edited_run import MlpEdits, run_on_host
from tl_attribution.interventions.intervention import Interventions
from tl_attribution.interventions.modes import (
    InterventionMode,
    Propagation,
    check_mode,
    run_rows,
)
from tl_attribution.interventions.resolve import new_token_clamps, prompt_clamps
from tl_attribution.replacement.prompt_run import PromptOrGraph, PromptRun, prepare


@dataclass(frozen=True, eq=False)
class GeneratedText:
    """New tokens, as ids and as text; ``logits[i]`` are those that token i was drawn from."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    logits: Float[Tensor, "token vocab"]

    @property
    def text(self) -> str:
        """The new text."""
        return "".join(self.tokens)


def generate(
    model: Any,
    prompt: PromptOrGraph | None = None,
    dictionary: Dictionary | None = None,
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[int] = (),
    propagation: Propagation = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    prefix: int | None = None,
) -> GeneratedText:
    """Continue a prompt with features held at values.

    The prompt is run as by :func:`tl_attribution.intervene` (``propagation`` ``iterative`` or
    ``constrained``). At new tokens attention is free and every MLP is the model's own; an
    intervention whose span reaches them (``slice(4, None)``) goes on holding there. Keys and values
    of what has been run are kept. ``temperature`` 0 takes the most likely token, otherwise tokens
    are drawn with ``seed``. It ends after ``max_new_tokens``, or with a token of ``stop``.

    Raises InputError for more tokens than the context holds, and what ``intervene`` raises.
    """
    if propagation == "direct":
        raise InputError("direct effects are linear in the prompt's own run: no text follows")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature must be 0 or more, got {temperature}")
    run = prepare(model, prompt, dictionary, prefix)
    mode = InterventionMode(propagation, layers, freeze_attention)
    with torch.no_grad():
        _check_length(run, max_new_tokens)
        clamps = prompt_clamps(run, [interventions], max_new_tokens)
        check_mode(run, mode, clamps)
        cache, sampler = editable(run.host).new_cache(1), torch.Generator().manual_seed(seed)
        logits = [run_rows(run, clamps, 1, mode, cache).logits[0, -1]]
        tokens = [_sample(logits[-1], temperature, sampler)]
        while len(tokens) < max_new_tokens and tokens[-1] not in stop:
            position = run.n_positions + len(tokens) - 1
            edits = MlpEdits(run, new_token_clamps(run, interventions, position))
            token = torch.tensor([[tokens[-1]]])
            edited = run_on_host(edits, token, freeze_attention=False, cache=cache)
            logits.append(edited.logits[0, -1])
            tokens.append(_sample(logits[-1], temperature, sampler))
    return GeneratedText(tuple(tokens), run.host.token_strings(tokens), torch.stack(logits))


def _check_length(run: PromptRun, n_new: int) -> None:
    host, n = run.host, run.n_positions
    if n_new < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {n_new}")
    if n + n_new > host.n_ctx:
        raise InputError(
            f"the prompt's {n} tokens and {n_new} new ones are more than the {host.n_ctx} that "
            f"{host.name} takes; ask for at most {host.n_ctx - n}"
        )


def _sample(logits: Float[Tensor, " vocab"], temperature: float, sampler: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.cpu().double() / temperature).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=sampler))
