"""Interventions as values: a feature set, scaled, added to or ablated; one or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args

from tl_attribution.errors import InputError
from tl_attribution.graph.nodes import Node

How = Literal["set", "scale", "add"]
"""Ways to change an activation: see :class:`Intervention`."""

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
    how: How = "set"

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise InputError(f"how must be one of {', '.join(get_args(How))}, got {self.how!r}")
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

    @property
    def factor_offset(self) -> tuple[float, float]:
        """The feature is held at factor × activation + offset."""
        match self.how:
            case "set":
                return 0.0, self.value
            case "scale":
                return self.value, 0.0
            case "add":
                return 1.0, self.value


Interventions = Union[Intervention, Sequence[Intervention]]  # noqa: UP007  # evaluated on 3.10
"""One intervention, or several made together."""


def supernode(
    features: Iterable[Node | tuple[int, int, int]], value: float, how: How = "scale"
) -> list[Intervention]:
    """The same intervention on several features: feature nodes of a graph, or (layer, position,
    index).

    ``value`` means what it does in :class:`Intervention`; ``supernode(nodes, 0)`` ablates. Raises
    InputError if there are none, or for a node that is not a feature.
    """
    interventions = []
    for feature in features:
        if isinstance(feature, Node) and feature.kind != "feature":
            raise InputError(
                f"node {feature.id} is {feature.kind}, and only features can be changed"
            )
        layer, position, index = feature[1:4] if isinstance(feature, Node) else feature
        interventions.append(Intervention(layer, position, index, value, how))
    if not interventions:
        raise InputError("a supernode needs at least one feature")
    return interventions


def as_list(interventions: Any) -> list[Intervention]:
    """Interventions as a list. Raises InputError for anything else."""
    if isinstance(interventions, Intervention):
        return [interventions]
    if isinstance(interventions, (str, bytes)) or not isinstance(interventions, Iterable):
        raise InputError(f"expected an Intervention or a list of them, got {interventions!r}")
    interventions = list(interventions)
    for intervention in interventions:
        if not isinstance(intervention, Intervention):
            raise InputError(
                f"expected an Intervention, got {intervention!r}; write "
                "Intervention(layer, position, feature, value)"
            )
    return interventions
