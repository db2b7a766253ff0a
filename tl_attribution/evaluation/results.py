"""Results of :func:`tl_attribution.evaluate`: plain numbers, with their definitions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tl_attribution.files import read_report, write_report

DENSITY_EDGES = tuple(i / 4 for i in range(-24, 1))
"""Edges of the density histogram's bins: log10 of the share of tokens on which a feature is
active, in quarters of a decade from one in a million to every token."""


def finite(number: float) -> float | None:
    """The number, or None where it is NaN or infinite: no such number is ever shown or written."""
    return number if math.isfinite(number) else None


def mean(numbers: Iterable[float | None]) -> float | None:
    """Mean of those that are known, None if none is."""
    known = [n for n in numbers if n is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class ReplacementMetrics:
    """The model with its MLP outputs replaced by reconstructions, against the model itself, over
    the tokens after the prefix. Logarithms are natural; None where a number is undefined."""

    agreement: float | None
    """Share of tokens after which both find the same next token most likely."""
    kl: float | None
    """Mean KL(model ‖ replaced) of the next token's distribution, in nats."""
    loss: float | None
    """Cross-entropy of the replaced model on the next token, in nats."""
    ablated_loss: float | None
    """The same with zero written instead of reconstructions."""
    loss_recovered: float | None
    """(ablated − replaced) / (ablated − model), of those losses: 1 is as good as the model, 0 as
    bad as writing nothing. Read it beside the losses: where the ablation hardly changes the loss,
    it is a ratio of two small numbers (None below a millionth of a nat)."""


@dataclass(frozen=True)
class LayerEvaluation:
    """One layer's features on the evaluated tokens. y is what the MLP writes, e = y − the
    reconstruction, sums go over tokens and dimensions."""

    nmse: float | None
    """Σ e² / Σ (y − mean y)²: 0 is perfect, 1 as bad as the mean output (Gao et al. 2024). SAELens
    calls 1 − NMSE ``explained_variance``."""
    explained_variance: float | None
    """1 − Σ (e − mean e)² / Σ (y − mean y)²: the mean error is removed, which NMSE counts, so it
    is 1 − NMSE or more, and unmoved by a wrong decoder bias."""
    l0: float
    """Active features a token, on average."""
    dead: int
    """Features that were never active on the evaluated tokens."""
    density: tuple[int, ...]
    """How many of the other features fall into each bin of :data:`DENSITY_EDGES`."""
    replaced: ReplacementMetrics
    """The model with this layer's MLP alone replaced; features read the model's own streams."""


@dataclass(frozen=True)
class AnswerMetrics:
    """The most likely token after each prompt: the model's own against the replacement model's."""

    prompts: int
    agreement: float
    """Share of prompts on which both are the same."""
    answered: int
    """How many prompts came with an answer."""
    model_accuracy: float | None
    replacement_accuracy: float | None


@dataclass(frozen=True)
class Distribution:
    """A number's distribution: mean, least, quartiles, most."""

    mean: float
    least: float
    lower: float
    median: float
    upper: float
    most: float


@dataclass(frozen=True)
class GraphScores:
    """Scores of some prompts' whole graphs (methods paper, "Graph scores"), and the residual that
    checks them (see :meth:`tl_attribution.Graph.residual`)."""

    graphs: int
    replacement: Distribution
    completeness: Distribution
    residual: Distribution


@dataclass(frozen=True)
class Evaluation:
    """How well a dictionary stands in for a model's MLPs; see :func:`tl_attribution.evaluate`."""

    model: str
    dictionary: str
    """Kind of dictionary, as in :attr:`tl_attribution.Dictionary.kind`."""
    n_features: int
    """Features a layer."""
    contexts: int
    tokens: int
    """Tokens evaluated: those of all contexts, less prefix and padding."""
    loss: float | None
    """The model's own cross-entropy on the next token, in nats."""
    layers: tuple[LayerEvaluation, ...]
    replaced: ReplacementMetrics
    """The replacement model: all MLPs at once, features read its own streams."""
    answers: dict[str, AnswerMetrics] = field(default_factory=dict)
    """By group of prompts."""
    graphs: GraphScores | None = None

    @property
    def nmse(self) -> float | None:
        """Mean over layers."""
        return mean(layer.nmse for layer in self.layers)

    @property
    def explained_variance(self) -> float | None:
        """Mean over layers."""
        return mean(layer.explained_variance for layer in self.layers)

    @property
    def l0(self) -> float:
        """Active features a token and layer, on average."""
        return sum(layer.l0 for layer in self.layers) / len(self.layers)

    @property
    def dead_share(self) -> float:
        """Share of all features that were never active on the evaluated tokens."""
        return sum(layer.dead for layer in self.layers) / (len(self.layers) * self.n_features)

    @property
    def one_layer(self) -> ReplacementMetrics:
        """Replacing one layer's MLP: means over layers."""
        every = [asdict(layer.replaced) for layer in self.layers]
        return ReplacementMetrics(**{name: mean(one[name] for one in every) for name in every[0]})

    @property
    def summary(self) -> dict[str, float | int | None]:
        """The numbers over all layers by name, flat, as experiment trackers and model cards want
        them."""
        summary: dict[str, float | int | None] = {
            "contexts": self.contexts,
            "tokens": self.tokens,
            "loss": self.loss,
            "nmse": self.nmse,
            "explained_variance": self.explained_variance,
            "l0": self.l0,
            "dead_share": self.dead_share,
        }
        for prefix, replaced in (("one_layer", self.one_layer), ("replacement", self.replaced)):
            summary |= {f"{prefix}_{name}": value for name, value in asdict(replaced).items()}
        for group, answers in self.answers.items():
            summary |= {f"{group}_{name}": value for name, value in asdict(answers).items()}
        if self.graphs is not None:
            for name in ("replacement", "completeness", "residual"):
                summary[f"graph_{name}"] = getattr(self.graphs, name).mean
        return summary

    def to_json(self, path: str | Path) -> None:
        """Write everything, and the summary, to a file that :meth:`from_json` reads; None is
        ``null``."""
        derived = {"summary": self.summary, "density_edges": DENSITY_EDGES}
        write_report(path, "evaluation", derived | asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`to_json` wrote. Raises NotFoundError if there is no such file,
        FormatError if it is corrupt or no evaluation."""
        return read_report(path, "evaluation", _evaluation)

    def plot(self, path: str | Path) -> None:
        """Draw the layers to an .svg or .png file. Raises InputError for another ending and
        NotFoundError without matplotlib."""
        from tl_attribution.evaluation.plot import draw_plot

        draw_plot(self, path)


def _evaluation(held: dict[str, Any]) -> Evaluation:
    for derived in ("summary", "density_edges"):
        held.pop(derived)
    layers = [
        one | {"density": tuple(one["density"]), "replaced": ReplacementMetrics(**one["replaced"])}
        for one in held.pop("layers")
    ]
    graphs = held.pop("graphs")
    if graphs is not None:
        spreads = {name: Distribution(**s) for name, s in graphs.items() if name != "graphs"}
        graphs = GraphScores(graphs=graphs["graphs"], **spreads)
    return Evaluation(
        layers=tuple(LayerEvaluation(**one) for one in layers),
        replaced=ReplacementMetrics(**held.pop("replaced")),
        answers={group: AnswerMetrics(**one) for group, one in held.pop("answers").items()},
        graphs=graphs,
        **held,
    )
