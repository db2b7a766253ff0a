"""Report of ``tl-attribution evaluate``: tables of layers, answers and graph scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.cli.terminal import print_files, print_heading
from tl_attribution.evaluation.results import (
    DENSITY_EDGES,
    Evaluation,
    LayerEvaluation,
    ReplacementMetrics,
)
from tl_attribution.text import printable

BLOCKS = " ▁▂▃▄▅▆▇█"
MERGED = 2
"""Bins of the density histogram per character."""
LEGEND = (
    "NMSE: squared error over variance; expl.: explained variance, mean error removed; L0: active "
    "features per token; dead: never active on these tokens; density: histogram of features over "
    "the share of tokens they are active on, from {} to 1. With MLPs replaced: agrees: same top "
    "token as the model; KL: in nats; loss: share recovered of the loss that zero ablation adds."
)


def show(console: Console, evaluation: Evaluation, seconds: float, files: list[Path]) -> None:
    """Print the metrics of each layer, of the replacement model and of graphs. ``seconds``: time of
    the computation; ``files``: paths that were written."""
    print_heading(
        console,
        f"{evaluation.dictionary} of {evaluation.model}: {evaluation.n_features:,} features per "
        f"layer, on {evaluation.tokens:,} tokens of {evaluation.contexts:,} contexts, in "
        f"{seconds:.1f} s",
    )
    console.print(Padding(_layers(evaluation), (0, 2)))
    first = DENSITY_EDGES[_first_bin(evaluation)]
    console.print(Padding(Text(LEGEND.format(f"{10**first:.0e}"), "dim"), (1, 2, 0, 2)))
    if evaluation.answers:
        print_heading(console, "answers of the replacement model")
        console.print(Padding(_answers(evaluation), (0, 2)))
    if evaluation.graphs is not None:
        print_heading(console, f"graphs of {evaluation.graphs.graphs} prompts")
        console.print(Padding(_graphs(evaluation), (0, 2)))
    print_files(console, files)


def _table(*columns: str) -> Table:
    """A table with all columns but the first aligned right."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _layers(evaluation: Evaluation) -> Table:
    table = _table("layer", "NMSE", "expl.", "L0", "dead", "density", "agrees", "KL", "loss")
    table.columns[5].justify = "left"
    first, n = _first_bin(evaluation), evaluation.n_features
    for layer, metrics in enumerate(evaluation.layers):
        numbers = _reconstruction(
            metrics.nmse, metrics.explained_variance, metrics.l0, metrics.dead / n
        )
        density = Text(_sparkline(metrics, first), "cyan")
        table.add_row(str(layer), *numbers, density, *_replaced(metrics.replaced))
    table.add_section()
    numbers = _reconstruction(
        evaluation.nmse, evaluation.explained_variance, evaluation.l0, evaluation.dead_share
    )
    table.add_row("mean", *numbers, "", *_replaced(evaluation.one_layer), style="bold")
    table.add_row("all at once", *[""] * 5, *_replaced(evaluation.replaced), style="bold")
    return table


def _reconstruction(
    nmse: float | None, explained: float | None, l0: float, dead: float
) -> tuple[str, ...]:
    return (_number(nmse, ".3f"), _number(explained, ".3f"), f"{l0:.1f}", f"{dead:.1%}")


def _replaced(metrics: ReplacementMetrics) -> tuple[str, ...]:
    return (
        _number(metrics.agreement, ".1%"),
        _number(metrics.kl, ".3f"),
        _number(metrics.loss_recovered, ".1%"),
    )


def _number(value: float | None, form: str) -> str:
    """Format a number; a dash if it is undefined."""
    return "–" if value is None else format(value, form)


def _first_bin(evaluation: Evaluation) -> int:
    """The first bin that is not empty in every layer, in steps of ``MERGED``."""
    bins = range(0, len(DENSITY_EDGES) - 1, MERGED)
    filled = [
        i for i in bins if any(sum(layer.density[i : i + MERGED]) for layer in evaluation.layers)
    ]
    return filled[0] if filled else 0


def _sparkline(layer: LayerEvaluation, first: int) -> str:
    """The density histogram as a line of blocks."""
    starts = range(first, len(layer.density), MERGED)
    counts = [sum(layer.density[i : i + MERGED]) for i in starts]
    most = max(*counts, 1)
    # A bin with any feature shows, however few.
    return "".join(BLOCKS[-(-c * (len(BLOCKS) - 1) // most)] for c in counts)


def _answers(evaluation: Evaluation) -> Table:
    table = _table("prompts", "number", "agrees", "model right", "replacement right")
    for group, metrics in evaluation.answers.items():
        table.add_row(
            printable(group),
            f"{metrics.prompts:,}",
            f"{metrics.agreement:.1%}",
            _number(metrics.model_accuracy, ".1%"),
            _number(metrics.replacement_accuracy, ".1%"),
        )
    return table


def _graphs(evaluation: Evaluation) -> Table:
    table = _table("", "mean", "least", "25%", "median", "75%", "most")
    scores = {name: s for name, s in asdict(evaluation)["graphs"].items() if name != "graphs"}
    for name, spread in scores.items():
        form = ".1e" if name == "residual" else ".3f"
        table.add_row(name, *(format(number, form) for number in spread.values()))
    return table
