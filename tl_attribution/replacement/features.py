"""``features``: the active features of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.hosts.prompt import Prompt, resolve_prompt
from tl_attribution.replacement.active_features import ActiveFeatures, encode_prompt
from tl_attribution.replacement.prompt_run import AttachedDictionary, PromptRun, attach


def features(
    model: Any,
    prompt: Prompt | Sequence[str] | None = None,
    dictionary: Dictionary | None = None,
    *,
    prefix: int | None = None,
) -> ActiveFeatures | list[ActiveFeatures]:
    """The active features of a prompt, or of each prompt in a list of strings.

    ``prompt``: as :func:`tl_attribution.prepare` takes it. Features of the prefix (see
    :func:`tl_attribution.attribute`) are left out; ``prefix=0`` keeps them. A run that
    :func:`tl_attribution.prepare` made takes the place of model, prompt and dictionary. Raises
    InputError for a prompt that cannot be run and MismatchError for a dictionary of another model.
    """
    if isinstance(model, PromptRun):
        run = model
        return encode_prompt(run.dictionary, lambda i: run.reads[i], run.prefix, run.n_positions)
    if prompt is None or dictionary is None:
        raise InputError(
            "expected a model, a prompt and a dictionary, or what tla.prepare returned"
        )
    attached = attach(model, dictionary)
    if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(p, str) for p in prompt):
        return [_prompt_features(attached, str(text), prefix) for text in prompt]
    return _prompt_features(attached, prompt, prefix)  # type: ignore[arg-type]  # not a list of str


def _prompt_features(
    attached: AttachedDictionary, prompt: Prompt, prefix: int | None
) -> ActiveFeatures:
    """Without a snapshot: what features read is all that is needed of the forward pass."""
    ids, start = resolve_prompt(attached.host, prompt, prefix)
    read = attached.host.read(ids, attached.sites.read_site)
    return encode_prompt(attached.dictionary, lambda layer: read[layer], start, len(ids))
