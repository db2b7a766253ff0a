"""An evaluation as one picture: what each layer reconstructs, with how many features, and what the
model makes of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_attribution.errors import InputError, NotFoundError
from tl_attribution.evaluation import DENSITY_EDGES, Evaluation
from tl_attribution.graph.paths import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("svg", "png")
BAR, LINE, QUIET = "#4c78a8", "#d1495b", "#6b7280"
FEW = 6
"""Layers whose histograms can be told apart when drawn over each other."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.hashsalt": "tl-attribution",  # the same evaluation gives the same file
    "svg.fonttype": "none",
}


def check(path: str | Path) -> str:
    """The kind of picture that ``path`` asks for. Raises InputError unless it ends in .svg or .png,
    NotFoundError without matplotlib."""
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise InputError(f"a plot is an .svg or .png file, got {str(path)!r}")
    try:
        import matplotlib  # noqa: F401  # whether it is there
    except ImportError as error:
        raise NotFoundError(
            "matplotlib, which draws plots, is not installed: "
            "python -m pip install 'tl-attribution[plots]'"
        ) from error
    return kind


def draw(evaluation: Evaluation, path: str | Path) -> None:
    """Write the picture whole. Raises as :func:`check` does."""
    kind = check(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from tl_attribution.files import write_whole

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        panels = figure.subplots(2, 2)
        _title(figure, evaluation)
        layers = evaluation.layers
        _bars(panels[0, 0], [one.nmse for one in layers], evaluation.nmse, "mean {:.3f}", 0.01)
        panels[0, 0].set_title("Normalised MSE")
        _bars(panels[0, 1], [one.l0 for one in layers], evaluation.l0, "mean {:.1f}")
        panels[0, 1].set_title("L0: active features a token")
        _densities(panels[1, 0], evaluation)
        same = [one.replaced.agreement for one in layers]
        _bars(panels[1, 1], same, evaluation.replaced.agreement, "all at once {:.1%}")
        panels[1, 1].set_title("Top-1 agreement, one layer replaced")
        panels[1, 1].set_ylim(0, 1.02)
        panels[1, 1].yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        held = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(held, format=kind, dpi=160, metadata=metadata)
    write_whole(path, held.getvalue())


def _title(figure: Any, evaluation: Evaluation) -> None:
    what = f"{evaluation.dictionary} of {evaluation.model}, {evaluation.n_features:,} features"
    text = f"{what} a layer, on {evaluation.tokens:,} tokens"
    # Names are not mathematics, whatever dollars they hold.
    figure.suptitle(f"{printable(text)}\n", x=0.01, ha="left", fontsize=12, parse_math=False)


def _bars(
    axes: Axes, values: list[float | None], line: float | None, label: str, least: float = 0.0
) -> None:
    """A bar a layer; a line across, which its label names at the right. The axis reaches at least
    ``least``, so that rounding errors do not look like something."""
    from matplotlib.ticker import MaxNLocator

    axes.bar(range(len(values)), [0.0 if v is None else v for v in values], color=BAR, width=0.72)
    axes.set_xlabel("layer", color=QUIET)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    top = max((v for v in (*values, line) if v is not None), default=0.0)
    axes.set_ylim(0, max(top * 1.12, least) or 1)
    if line is not None:
        axes.axhline(line, color=LINE, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.text(1.0, 1.02, label.format(line), color=LINE, ha="right", transform=axes.transAxes)


def _densities(axes: Axes, evaluation: Evaluation) -> None:
    """The layers' histograms: over each other, or a row each where they are many."""
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    if len(evaluation.layers) <= FEW:
        _overlaid(axes, evaluation)
    else:
        rows = [i - 0.5 for i in range(len(evaluation.layers) + 1)]
        counts = [one.density for one in evaluation.layers]
        axes.pcolormesh(DENSITY_EDGES, rows, counts, cmap="Blues", rasterized=True)
        axes.set_ylabel("layer", color=QUIET)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    bins = range(len(DENSITY_EDGES) - 1)
    first = next((i for i in bins if any(one.density[i] for one in evaluation.layers)), 0)
    axes.set_xlim(min(DENSITY_EDGES[first] - 0.25, -2), 0)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.xaxis.set_major_formatter(lambda x, _: f"{10**x:.5g}")
    axes.set_xlabel("share of tokens on which a feature is active", color=QUIET)
    axes.set_title(f"Features by density ({evaluation.dead_share:.1%} dead)")


def _overlaid(axes: Axes, evaluation: Evaluation) -> None:
    """A line a layer, from dark (first) to light (last)."""
    from matplotlib import colormaps

    for layer, one in enumerate(evaluation.layers):
        colour = colormaps["viridis"](0.9 * layer / FEW)
        axes.stairs(one.density, DENSITY_EDGES, color=colour, linewidth=1.6)
        axes.plot([], [], color=colour, linewidth=1.6, label=f"layer {layer}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
