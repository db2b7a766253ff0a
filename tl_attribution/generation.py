"""Text generated with some features held at values, which go on holding at the new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.intervene import (
    Mode,
    PromptOrGraph,
    check_mode,
    original_run,
    run,
)
from tl_attribution.interventions import Interventions, at_new_token, at_prompt
from tl_attribution.replacement import edited
from tl_attribution.replacement.edited import Edits, Original
from tl_attribution.replacement.host import host_for
from tl_attribution.replacement.prompts import compute_in_fp32


@dataclass(frozen=True, eq=False)
class Generated:
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
    prompt: PromptOrGraph,
    dictionary: Dictionary,
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[int] = (),
    propagation: str = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    prefix: int | None = None,
) -> Generated:
    """Continue a prompt with features held at values.

    The prompt is run as by :func:`tl_attribution.intervene` (``propagation`` ``iterative`` or
    ``constrained``). At new tokens attention is free and every MLP is the model's own; an
    intervention whose span reaches them (``slice(4, None)``) goes on holding there. Keys and values
    of what has been run are kept. ``temperature`` 0 takes the most likely token, otherwise tokens
    are drawn with ``seed``. It ends after ``max_new_tokens``, or with a token of ``stop``.

    Raises InputError for more tokens than the context holds, and what ``intervene`` raises.
    """
    host = host_for(compute_in_fp32(model))
    mode = Mode(propagation, layers, freeze_attention)
    if propagation == "direct":
        raise InputError("direct effects are linear in the prompt's own run: no text follows")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature must be 0 or more, got {temperature}")
    with torch.no_grad():
        original = original_run(host, prompt, dictionary, prefix)
        _check_length(original, max_new_tokens)
        clamps = at_prompt(original, [interventions], max_new_tokens)
        check_mode(original, mode, clamps)
        cache, draw = host.new_cache(1), torch.Generator().manual_seed(seed)
        logits = run(original, clamps, 1, mode, cache).logits[0, -1]
        chosen, seen = [_choose(logits, temperature, draw)], [logits]
        while len(chosen) < max_new_tokens and chosen[-1] not in stop:
            position = original.n_positions + len(chosen) - 1
            held = at_new_token(original, interventions, position)
            token = torch.tensor([[chosen[-1]]])
            ran = edited.on_host(Edits(original, held), token, frozen=False, cache=cache)
            seen.append(ran.logits[0, -1])
            chosen.append(_choose(seen[-1], temperature, draw))
    return Generated(tuple(chosen), host.token_strings(chosen), torch.stack(seen))


def _check_length(original: Original, new: int) -> None:
    host, n = original.host, original.n_positions
    if new < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {new}")
    if n + new > host.n_ctx:
        raise InputError(
            f"the prompt's {n} tokens and {new} new ones are more than the {host.n_ctx} that "
            f"{host.name} takes; ask for at most {host.n_ctx - n}"
        )


def _choose(logits: Float[Tensor, " vocab"], temperature: float, draw: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    shares = (logits.cpu().double() / temperature).softmax(-1)
    return int(torch.multinomial(shares, 1, generator=draw))
