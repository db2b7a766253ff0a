"""From interventions to clamps: which feature is held where on a prompt, and at what."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.interventions.clamps import Clamps
from tl_attribution.interventions.intervention import Intervention, Interventions, as_list
from tl_attribution.replacement.active_features import activations_at
from tl_attribution.replacement.prompt_run import PromptRun


def prompt_clamps(run: PromptRun, groups: Sequence[Interventions], n_new: int = 0) -> Clamps:
    """What each group, one per row, clamps at the prompt's positions. Raises InputError for a
    layer, feature or position that does not exist, and for a feature held in two ways. ``n_new``:
    number of tokens that will be generated, where a span may lie."""
    rows: list[tuple[int, int, int, int, float, float]] = []
    for row, group in enumerate(groups):
        clamped: dict[tuple[int, int, int], Intervention] = {}
        for intervention in as_list(group):
            check_feature(run.dictionary, intervention)
            for position in _positions(intervention, run, n_new):
                key = (intervention.layer, position, intervention.feature)
                first = clamped.setdefault(key, intervention)
                if _is_new(first, intervention, position):
                    rows.append((row, *key, *intervention.factor_offset))
    return _with_originals(run, rows)


def new_token_clamps(run: PromptRun, interventions: Interventions, position: int) -> Clamps:
    """What is clamped at one generated token, alone in its row, at this position of the text."""
    reference = run.snapshot.final_resid
    clamped: dict[tuple[int, int], Intervention] = {}
    for intervention in as_list(interventions):
        if _reaches(intervention, position, run.n_positions):
            key = (intervention.layer, intervention.feature)
            _is_new(clamped.setdefault(key, intervention), intervention, position)
    columns = [[i.layer for i in clamped.values()], [i.feature for i in clamped.values()]]
    layer, feature = (
        torch.tensor(column, dtype=torch.long, device=reference.device) for column in columns
    )
    pairs = torch.tensor([i.factor_offset for i in clamped.values()]).reshape(-1, 2)
    factor, offset = pairs.to(reference).unbind(1)
    zeros = torch.zeros_like(layer)
    return Clamps(zeros, layer, zeros, feature, factor, offset, torch.full_like(factor, math.nan))


def check_feature(dictionary: Dictionary, intervention: Intervention) -> None:
    """Raise InputError if there is no such layer or feature."""
    for name, number, n in (
        ("layer", intervention.layer, dictionary.n_layers),
        ("feature", intervention.feature, dictionary.n_features),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < n:
            raise InputError(
                f"{name} {number!r} of {intervention} does not exist; the dictionary has {name}s "
                f"0 to {n - 1}"
            )


def _is_new(first: Intervention, intervention: Intervention, position: int) -> bool:
    """Whether ``intervention`` is the first on its feature at a position, or repeats it. Raises
    InputError if it says something else."""
    if first is intervention:
        return True
    if first.factor_offset == intervention.factor_offset:
        return False
    raise InputError(
        f"feature {intervention.feature} of layer {intervention.layer} at position {position} is "
        f"held twice: {first.how} {first.value:g} and {intervention.how} "
        f"{intervention.value:g}; give one of them"
    )


def _positions(intervention: Intervention, run: PromptRun, n_new: int) -> list[int]:
    """Positions in the prompt, each once."""
    position = intervention.position
    if isinstance(position, slice):
        return _span(intervention, position, run, n_new)
    listed = [position] if isinstance(position, int) else list(position)
    if not listed:
        raise InputError(f"{intervention} has no position")
    return list(dict.fromkeys(_position(intervention, p, run) for p in listed))


def _span(intervention: Intervention, span: slice, run: PromptRun, n_new: int) -> list[int]:
    n, prefix = run.n_positions, run.prefix
    positions = [p for p in range(*span.indices(n)) if p >= prefix]
    if not positions and not any(_reaches(intervention, p, n) for p in range(n, n + n_new)):
        raise InputError(
            f"the span of {intervention} reaches none of the prompt's {n} tokens after its prefix "
            f"of {prefix}"
        )
    return positions


def _position(intervention: Intervention, position: int, run: PromptRun) -> int:
    n, prefix = run.n_positions, run.prefix
    if not isinstance(position, int) or not -n <= position < n:
        raise InputError(
            f"position {position!r} of {intervention} is outside the prompt's {n} tokens"
        )
    if position % n < prefix:
        raise InputError(
            f"position {position} of {intervention} is in the prefix of {prefix} tokens, whose MLP "
            "outputs no feature stands for; give prefix=0 to change them"
        )
    return position % n


def _reaches(intervention: Intervention, position: int, n: int) -> bool:
    """Whether a span holds a position after the prompt's ``n`` tokens."""
    span = intervention.position
    if not isinstance(span, slice):
        return False
    stop = position + 1 if span.stop is None else span.stop
    start, _, step = span.indices(n) if (span.start or 0) < 0 else (span.start or 0, 0, span.step)
    return position in range(start, stop, step or 1)


def _with_originals(run: PromptRun, rows: list[tuple[int, int, int, int, float, float]]) -> Clamps:
    reference = run.snapshot.final_resid
    numbers = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    row, layer, position, feature = numbers[:, :4].long().to(reference.device).unbind(1)
    factor, offset = numbers[:, 4:].to(reference).unbind(1)
    original = torch.zeros_like(factor)
    for i in layer.unique().tolist():
        in_layer = layer == i
        columns = torch.zeros_like(position[in_layer]), position[in_layer], feature[in_layer]
        values = activations_at(run.dictionary, i, run.reads[i][None], *columns)
        original[in_layer] = values.to(original)
    return Clamps(row, layer, position, feature, factor, offset, original)
