"""Figures of the studies: style, bars beside their control, grids, and circuits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

import tl_attribution as tla

BLUE, ORANGE, GREEN, PURPLE, SKY, GRAY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8A8A8A",
)  # fmt: skip
"""Okabe and Ito's colors, which people with any color vision can tell apart."""
INK, PAPER = "#222222", "#FFFFFF"

plt.rcParams.update(
    {
        "svg.hashsalt": "atlas",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GRAY,
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
    fig, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return fig, list(axes[0])


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
    for shift, values, color, label in (
        (-0.2, rates, BLUE, "swap"),
        (0.2, controls, GRAY, "random features"),
    ):
        places = [i + shift for i in range(len(names))]
        axes.bar(places, values, 0.38, color=color, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(place, value + 0.015, f"{100 * value:.0f}%", ha="center", fontsize=9)
    axes.set_xticks(range(len(names)), names)
    percent(axes, "wanted answer")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


class Box(NamedTuple):
    """A supernode in a drawing: its place, label and color."""

    x: float
    y: float
    label: str
    color: str


def circuit(axes: Axes, graph: tla.Graph, boxes: Mapping[str, Box], minimum: float = 0.01) -> None:
    """Draw supernodes of a graph, by name. Arrows show the influence on the answer that flows
    from one to another, if it is at least ``minimum``."""
    nodes = graph.supernodes()
    drawn = {name: _box(axes, box) for name, box in boxes.items()}
    for target, source in itertools.permutations(boxes, 2):
        size = float(nodes.flow[nodes.find(target), nodes.find(source)])
        if size >= minimum:
            _arrow(axes, drawn[source], drawn[target], size)
    axes.set_axis_off()
    axes.figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.margins(0.2, 0.14)


def _box(axes: Axes, box: Box) -> Text:
    axes.plot([box.x], [box.y], alpha=0)  # text alone does not widen the axes
    return axes.text(
        box.x, box.y, box.label, ha="center", va="center", color=PAPER, fontsize=10, zorder=2,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": box.color, "edgecolor": PAPER,
              "linewidth": 2},
    )  # fmt: skip


def _arrow(axes: Axes, source: Text, target: Text, size: float) -> None:
    ends = source.get_position(), target.get_position()
    axes.add_patch(
        FancyArrowPatch(
            *ends, patchA=source.get_bbox_patch(), patchB=target.get_bbox_patch(), shrinkA=1,
            shrinkB=3, arrowstyle="-|>", mutation_scale=12, zorder=3,  # once the boxes have a size
            linewidth=0.8 + 14 * size, color=INK, alpha=0.45,
        )
    )  # fmt: skip
    x, y = (0.55 * a + 0.45 * b for a, b in zip(*ends, strict=True))
    axes.text(
        x, y, f"{100 * size:.0f}%", fontsize=8, ha="center", va="center", zorder=4, color=INK,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def grid(
    axes: Axes, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """A named grid of shares: white is none, blue is all, gray is no number."""
    shades = LinearSegmentedColormap.from_list("share", [PAPER, BLUE])
    shades.set_bad("#D9D9D9")
    axes.imshow(values, cmap=shades, vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    size = 9 if len(rows) < 20 else 6.5
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
