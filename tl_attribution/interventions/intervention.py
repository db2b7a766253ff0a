"""What can be changed in a run: features set, scaled, added to or ablated, one or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union

import torch

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.graph.nodes import Node
from tl_attribution.interventions.clamps import Clamps, activations_at
from tl_attribution.interventions.edited_run import PromptRun

HOW = ("set", "scale", "add")
"""Ways to change a feature: see :class:`Intervention`."""

Positions = Union[int, slice, range, tuple[int, ...]]  # noqa: UP007  # evaluated on 3.10
"""One position (negative: from the prompt's end), several, or a span. A span without an end goes on
to the tokens that are generated."""


@dataclass(frozen=True)
class Intervention:
    """One feature held at a value, at a position, positions or a span.

    ``value`` is the activation to set. With ``how="scale"`` it multiplies the activation of the
    original run, with ``"add"`` it is added to it; for a token that is generated, the activation
    that the feature would have there counts. A span reaches the positions after the prefix.

    Raises InputError for a value that is NaN or infinite, or an unknown ``how``.
    """

    layer: int
    position: Positions
    feature: int
    value: float
    how: str = "set"

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise InputError(f"how must be one of {', '.join(HOW)}, got {self.how!r}")
        if not math.isfinite(self.value):
            raise InputError(
                f"feature {self.feature} of layer {self.layer} cannot be held at {self.value}; "
                "give a finite number"
            )

    @classmethod
    def scale(cls, layer: int, position: Positions, feature: int, factor: float) -> Intervention:
        """``factor`` times the original activation."""
        return cls(layer, position, feature, factor, "scale")

    @classmethod
    def add(cls, layer: int, position: Positions, feature: int, amount: float) -> Intervention:
        """The original activation plus ``amount``."""
        return cls(layer, position, feature, amount, "add")

    @classmethod
    def ablate(cls, layer: int, position: Positions, feature: int) -> Intervention:
        """Held at zero."""
        return cls(layer, position, feature, 0.0)


def supernode(
    features: Iterable[Node | tuple[int, int, int]], value: float, how: str = "scale"
) -> list[Intervention]:
    """Several features changed alike: feature nodes of a graph, or (layer, position, index).

    ``value`` means what it does in :class:`Intervention`; ``supernode(nodes, 0)`` ablates. Raises
    InputError if there are none, or a node is no feature.
    """
    found = []
    for one in features:
        if isinstance(one, Node) and one.kind != "feature":
            raise InputError(f"node {one.id} is {one.kind}, and only features can be changed")
        layer, position, index = one[1:4] if isinstance(one, Node) else one
        found.append(Intervention(layer, position, index, value, how))
    if not found:
        raise InputError("a supernode needs at least one feature")
    return found


Interventions = Union[Intervention, Sequence[Intervention]]  # noqa: UP007  # evaluated on 3.10


def listed(interventions: Any) -> list[Intervention]:
    """One intervention as a list of one. Raises InputError for what is none."""
    if isinstance(interventions, Intervention):
        return [interventions]
    if isinstance(interventions, (str, bytes)) or not isinstance(interventions, Iterable):
        raise InputError(f"{interventions!r} is no Intervention, nor a list of them")
    found = list(interventions)
    for one in found:
        if not isinstance(one, Intervention):
            raise InputError(
                f"{one!r} is no Intervention; write Intervention(layer, position, feature, value)"
            )
    return found


def at_prompt(original: PromptRun, groups: Sequence[Interventions], n_later: int = 0) -> Clamps:
    """What each group, one a row, holds at the prompt's positions. Raises InputError for a layer,
    feature or position that does not exist, and for a feature held in two ways. ``n_later``: so
    many tokens will be generated, so that a span may lie among them."""
    rows: list[tuple[int, int, int, int, float, float]] = []
    for row, group in enumerate(groups):
        held: dict[tuple[int, int, int], Intervention] = {}
        for one in listed(group):
            check_feature(original.dictionary, one)
            for position in _positions(one, original, n_later):
                key = (one.layer, position, one.feature)
                if _settled(held.setdefault(key, one), one, position):
                    rows.append((row, *key, *factor_offset(one)))
    return _with_originals(original, rows)


def factor_offset(one: Intervention) -> tuple[float, float]:
    """The value that is held is factor × activation + offset."""
    match one.how:
        case "set":
            return 0.0, one.value
        case "scale":
            return one.value, 0.0
    return 1.0, one.value


def check_feature(dictionary: Dictionary, one: Intervention) -> None:
    """Raise InputError if there is no such layer or feature."""
    for name, found, n in (
        ("layer", one.layer, dictionary.n_layers),
        ("feature", one.feature, dictionary.n_features),
    ):
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < n:
            raise InputError(
                f"{name} {found!r} of {one} does not exist; the dictionary has {name}s 0 to {n - 1}"
            )


def _settled(first: Intervention, one: Intervention, position: int) -> bool:
    """Whether ``one`` is the first to hold its feature at a position, or says the same again."""
    if first is one:
        return True
    if factor_offset(first) == factor_offset(one):
        return False
    raise InputError(
        f"feature {one.feature} of layer {one.layer} at position {position} is held twice: "
        f"{first.how} {first.value:g} and {one.how} {one.value:g}; give one of them"
    )


def _positions(one: Intervention, original: PromptRun, n_later: int) -> list[int]:
    """Positions in the prompt, each once."""
    n, first, position = original.n_positions, original.prefix, one.position
    if isinstance(position, slice):
        found = [p for p in range(*position.indices(n)) if p >= first]
        if not found and not any(_reaches(one, p, n) for p in range(n, n + n_later)):
            raise InputError(
                f"the span of {one} reaches none of the prompt's {n} tokens after its prefix of "
                f"{first}"
            )
        return found
    several = [position] if isinstance(position, int) else list(position)
    if not several:
        raise InputError(f"{one} has no position")
    found = []
    for p in several:
        if not isinstance(p, int) or not -n <= p < n:
            raise InputError(f"position {p!r} of {one} is outside the prompt's {n} tokens")
        if p % n < first:
            raise InputError(
                f"position {p} of {one} is in the prefix of {first} tokens, whose MLP outputs no "
                "feature stands for; give prefix=0 to change them"
            )
        found.append(p % n)
    return list(dict.fromkeys(found))


def _reaches(one: Intervention, position: int, n: int) -> bool:
    """Whether a span holds a position after the prompt's ``n`` tokens."""
    span = one.position
    if not isinstance(span, slice):
        return False
    stop = position + 1 if span.stop is None else span.stop
    start, _, step = span.indices(n) if (span.start or 0) < 0 else (span.start or 0, 0, span.step)
    return position in range(start, stop, step or 1)


def _with_originals(
    original: PromptRun, rows: list[tuple[int, int, int, int, float, float]]
) -> Clamps:
    like = original.snapshot.final_resid
    numbers = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    row, layer, position, feature = numbers[:, :4].long().to(like.device).unbind(1)
    factor, offset = numbers[:, 4:].to(like).unbind(1)
    clamps = Clamps(row, layer, position, feature, factor, offset, torch.zeros_like(factor))
    for at in layer.unique().tolist():
        here = layer == at
        columns = torch.zeros_like(position[here]), position[here], feature[here]
        found = activations_at(original.dictionary, at, original.reads[at][None], *columns)
        clamps.original[here] = found.to(like)
    return clamps


def at_new_token(original: PromptRun, interventions: Interventions, position: int) -> Clamps:
    """What is held at one generated token, alone in its row, at this position of the text."""
    like, n = original.snapshot.final_resid, original.n_positions
    held: dict[tuple[int, int], Intervention] = {}
    for one in listed(interventions):
        if _reaches(one, position, n):
            _settled(held.setdefault((one.layer, one.feature), one), one, position)
    columns = [[i.layer for i in held.values()], [i.feature for i in held.values()]]
    layer, feature = (torch.tensor(c, dtype=torch.long, device=like.device) for c in columns)
    both = torch.tensor([factor_offset(i) for i in held.values()]).reshape(-1, 2).to(like)
    zeros = torch.zeros_like(layer)
    unknown = torch.full_like(both[:, 0], math.nan)
    return Clamps(zeros, layer, zeros, feature, both[:, 0], both[:, 1], unknown)
