"""How the studies' figures look: one style, bars beside their control, and circuits of supernodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import tl_attribution as tla

BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8A8A8A",
)  # fmt: skip
"""Okabe and Ito's colours, which people with any colour vision can tell apart."""
INK, PAPER = "#222222", "#FFFFFF"

plt.rcParams.update(
    {
        "svg.hashsalt": "atlas",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "figure.constrained_layout.use": True,
    }
)


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, in inches, and its axes side by side."""
    made, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return made, list(axes[0])


def percent(axes: Axes, label: str, axis: str = "y") -> None:
    """An axis of shares, from 0 to 100%."""
    on = axes.yaxis if axis == "y" else axes.xaxis
    (axes.set_ylim if axis == "y" else axes.set_xlim)(0, 1.08)
    on.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    on.set_ticks([0, 0.25, 0.5, 0.75, 1.0])
    on.set_label_text(label)


def beside_control(
    axes: Axes, names: Sequence[str], rates: Sequence[float], controls: Sequence[float]
) -> None:
    """Bars of success rates, each beside its control."""
    for shift, values, colour, label in (
        (-0.2, rates, BLUE, "swap"),
        (0.2, controls, GREY, "random features"),
    ):
        places = [i + shift for i in range(len(names))]
        axes.bar(places, values, 0.38, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(place, value + 0.015, f"{100 * value:.0f}%", ha="center", fontsize=9)
    axes.set_xticks(range(len(names)), names)
    percent(axes, "wanted answer")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


Place = tuple[float, float]


def circuit(
    axes: Axes,
    graph: tla.Graph,
    places: Mapping[str, Place],
    colours: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw the supernodes of a graph: arrows are the influence that flows between two of them, as
    a share of all that comes into the answer. ``places``: where each group stands, x and y."""
    nodes = graph.supernodes()
    at = {name: nodes.find(name) for name in places}
    for target in places:
        for source in places:
            size = float(nodes.flow[at[target], at[source]])
            if source != target and size >= 0.005:
                _arrow(axes, places[source], places[target], size)
    for name, (x, y) in places.items():
        _box(axes, x, y, (labels or {}).get(name, name), colours.get(name, GREY))
    axes.set_axis_off()
    axes.margins(0.16, 0.12)


def _box(axes: Axes, x: float, y: float, label: str, colour: str) -> None:
    axes.text(
        x, y, label, ha="center", va="center", color=PAPER, fontsize=10, zorder=3,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": colour, "edgecolor": PAPER, "linewidth": 2},
    )  # fmt: skip
    axes.plot([x], [y], alpha=0)


def _arrow(axes: Axes, start: Place, end: Place, size: float) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, shrinkA=20, shrinkB=20, zorder=1,
            linewidth=0.8 + 14 * size, color=INK, alpha=0.45,
        )  # fmt: skip
    )
    x, y = (0.55 * a + 0.45 * b for a, b in zip(start, end, strict=True))
    axes.text(
        x, y, f"{100 * size:.0f}%", fontsize=8, ha="center", va="center", zorder=4, color=INK,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


