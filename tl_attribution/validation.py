"""What :func:`tl_attribution.validate` found: plain numbers, their definitions, a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tl_attribution import reports
from tl_attribution.evaluation import mean

ROUNDING = 1e-3
"""Direct effects that differ by more than this of the largest edge into a target are wrong."""
STRONG, FAIR = 0.7, 0.4
"""Rank correlations and cosines from which on a prediction is called good, or fair."""


@dataclass(frozen=True)
class Direct:
    """Direct effects of ablating each tested node and supernode: edges against a run with
    attention, norms and MLP outputs frozen. The difference is relative to the largest edge into
    its target."""

    effects: int
    """How many effects were compared."""
    worst: float
    """The largest difference."""


@dataclass(frozen=True)
class Tested:
    """One ablated feature, or supernode: what the graph predicts and what the model did."""

    name: str
    layer: int
    """Of a supernode, its lowest."""
    influence: float
    """The graph's: its share of the influence on the targets."""
    activation: float
    """The feature's, or the sum over a supernode."""
    effect: float
    """Measured: by how much the targets changed, as a share of all that reaches them, weighted as
    the graph weights them."""


@dataclass(frozen=True)
class Ranking:
    """Rank correlations (Spearman) with the measured effect on the targets, where defined."""

    influence: float | None
    activation: float | None
    random: float | None
    """The mean of the absolute correlation of random orders: what chance gives."""
    later_features: float | None
    """Influence of a node on each later feature against the ablation's effect on it: the mean over
    tested nodes."""


@dataclass(frozen=True)
class Curve:
    """The targets' change when the first so many features of a ranking are ablated at once."""

    counts: tuple[int, ...]
    influence: tuple[float, ...]
    activation: tuple[float, ...]
    random: tuple[float, ...]
    """Mean over random orders."""


@dataclass(frozen=True)
class LayerFaithfulness:
    """What features read at a layer after a perturbation below it (a tested feature's own write
    removed): the model's response against the local replacement model's, over the perturbations."""

    layer: int
    perturbations: int
    cosine: float | None
    """Mean cosine of the two responses."""
    error: float | None
    """Mean ‖model − replacement‖² / ‖model‖²: 0 is perfect, 1 as bad as no response."""


@dataclass(frozen=True)
class Validation:
    """Does a graph predict its model? See :func:`tl_attribution.validate`."""

    model: str
    dictionary: str
    prompt: str
    features: int
    """Feature nodes of the graph."""
    direct: Direct
    tested: tuple[Tested, ...]
    supernodes: tuple[Tested, ...]
    ranking: Ranking
    curve: Curve
    layers: tuple[LayerFaithfulness, ...]

    @property
    def cosine(self) -> float | None:
        """Mean over layers."""
        return mean(layer.cosine for layer in self.layers)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The findings in sentences, the conclusion first."""
        exact = self.direct.worst <= ROUNDING
        direct = (
            f"Direct effects are the graph's edges, to rounding (at most {self.direct.worst:.1e} "
            f"off in {self.direct.effects:,} effects)."
            if exact
            else f"Direct effects are NOT the graph's edges: up to {self.direct.worst:.1e} off. "
            "The graph does not describe this model."
        )
        return (
            _conclusion(exact, self.ranking, self.cosine),
            direct,
            _ranked(self.ranking, len(self.tested)),
            _faithful(self.cosine),
        )

    def to_json(self, path: str | Path) -> None:
        """Write everything, and the verdict, to a file that :meth:`from_json` reads."""
        reports.write(path, "validation", {"verdict": self.verdict} | asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> Validation:
        """Read what :meth:`to_json` wrote. Raises NotFoundError if there is no such file,
        FormatError if it is corrupt or no validation."""
        return reports.read(path, "validation", _validation)

    def to_html(self, path: str | Path) -> None:
        """Write the report: one self-contained page with plots, without network or scripts."""
        from tl_attribution.files import write_whole
        from tl_attribution.view import validation_page

        write_whole(path, validation_page.render(self).encode())


def grade(number: float | None) -> str:
    """``good``, ``fair``, ``poor`` or ``unknown``: how a correlation or cosine is called."""
    if number is None:
        return "unknown"
    return "good" if number >= STRONG else "fair" if number >= FAIR else "poor"


def _conclusion(exact: bool, ranking: Ranking, cosine: float | None) -> str:
    if not exact:
        return "Do not use this graph: it is wrong about its own frozen model."
    grades = {grade(ranking.influence), grade(cosine)}
    better = (ranking.influence or 0) > max(ranking.activation or 0, ranking.random or 0)
    if "poor" in grades or not better:
        return (
            "Use this graph as a source of hypotheses only: test each path with an intervention "
            "before you believe it."
        )
    if grades == {"good"}:
        return "The graph predicts what the model does when its features are changed."
    return "The graph predicts the model roughly: check the paths that matter by intervention."


def _ranked(ranking: Ranking, tested: int) -> str:
    if ranking.influence is None:
        return f"Too few features were tested ({tested}), or none has an effect, to rank them."

    def told(number: float | None) -> str:
        return "unknown" if number is None else f"{number:.2f}"

    return (
        f"Ablating {tested} features one by one, their influence ranks the effects on the answer "
        f"with a correlation of {ranking.influence:.2f} ({grade(ranking.influence)}); their "
        f"activation with {told(ranking.activation)}, chance with {told(ranking.random)}. On later "
        f"features it is {told(ranking.later_features)}."
    )


def _faithful(cosine: float | None) -> str:
    if cosine is None:
        return "No perturbation reached a later layer, so nothing is known of how layers respond."
    return (
        f"After a perturbation, the model's later layers and the dictionary's agree with a cosine "
        f"of {cosine:.2f} ({grade(cosine)})."
    )


def _validation(held: dict[str, Any]) -> Validation:
    held.pop("verdict")
    curve = Curve(**{name: tuple(values) for name, values in held.pop("curve").items()})
    tested, supernodes = ([Tested(**t) for t in held.pop(n)] for n in ("tested", "supernodes"))
    return Validation(
        direct=Direct(**held.pop("direct")),
        ranking=Ranking(**held.pop("ranking")),
        curve=curve,
        tested=tuple(tested),
        supernodes=tuple(supernodes),
        layers=tuple(LayerFaithfulness(**one) for one in held.pop("layers")),
        **held,
    )
