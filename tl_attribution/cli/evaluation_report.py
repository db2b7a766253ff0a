"""What ``tl-attribution evaluate`` tells about a dictionary."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.evaluation.results import (
    DENSITY_EDGES,
    Evaluation,
    LayerEvaluation,
    ReplacementMetrics,
)
from tl_attribution.text import printable

BLOCKS = " ▁▂▃▄▅▆▇█"
MERGED = 2
"""Bins of the density histogram that one character shows."""
LEGEND = (
    "NMSE: squared error over variance; expl.: the same as a share explained, mean error removed; "
    "L0: active features a token; dead: never active here; density: how many features are active "
    "on what share of tokens, from {} to 1. With MLPs replaced: agrees: same top token as the "
    "model; KL in nats; loss: share recovered of what writing zero instead costs."
)


def show(console: Console, evaluation: Evaluation, seconds: float, files: list[Path]) -> None:
    """Print what each layer reconstructs, what the model makes of it, and how graphs come out.
    ``seconds`` is the time it took."""
    found = evaluation
    _heading(
        console,
        f"{found.dictionary} of {found.model}: {found.n_features:,} features a layer, on "
        f"{found.tokens:,} tokens of {found.contexts:,} contexts, in {seconds:.1f} s",
    )
    console.print(Padding(_layers(found), (0, 2)))
    first = DENSITY_EDGES[_first_bin(found)]
    console.print(Padding(Text(LEGEND.format(f"{10**first:.0e}"), "dim"), (1, 2, 0, 2)))
    if found.answers:
        _heading(console, "answers of the replacement model")
        console.print(Padding(_answers(found), (0, 2)))
    if found.graphs is not None:
        _heading(console, f"graphs of {found.graphs.graphs} prompts")
        console.print(Padding(_graphs(found), (0, 2)))
    for file in files:
        console.print(f"\nwrote {printable(str(file))}", soft_wrap=True, end="")
    console.print()


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{printable(text)}", "bold"), soft_wrap=True)


def _table(*columns: str) -> Table:
    """A table whose columns but the first are aligned at the right."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _layers(found: Evaluation) -> Table:
    table = _table("layer", "NMSE", "expl.", "L0", "dead", "density", "agrees", "KL", "loss")
    table.columns[5].justify = "left"
    first, n = _first_bin(found), found.n_features
    for layer, one in enumerate(found.layers):
        numbers = _reconstruction(one.nmse, one.explained_variance, one.l0, one.dead / n)
        table.add_row(
            str(layer), *numbers, Text(_spark(one, first), "cyan"), *_replaced(one.replaced)
        )
    table.add_section()
    numbers = _reconstruction(found.nmse, found.explained_variance, found.l0, found.dead_share)
    table.add_row("mean", *numbers, "", *_replaced(found.one_layer), style="bold")
    table.add_row("all at once", *[""] * 5, *_replaced(found.replaced), style="bold")
    return table


def _reconstruction(
    nmse: float | None, explained: float | None, l0: float, dead: float
) -> tuple[str, ...]:
    return (_number(nmse, ".3f"), _number(explained, ".3f"), f"{l0:.1f}", f"{dead:.1%}")


def _replaced(one: ReplacementMetrics) -> tuple[str, ...]:
    return (
        _number(one.agreement, ".1%"),
        _number(one.kl, ".3f"),
        _number(one.loss_recovered, ".1%"),
    )


def _number(value: float | None, form: str) -> str:
    """A dash stands for a number that is undefined."""
    return "–" if value is None else format(value, form)


def _first_bin(found: Evaluation) -> int:
    """Where the histograms begin: no layer has a feature in the bins before."""
    bins = range(0, len(DENSITY_EDGES) - 1, MERGED)
    seen = [i for i in bins if any(sum(one.density[i : i + MERGED]) for one in found.layers)]
    return seen[0] if seen else 0


def _spark(one: LayerEvaluation, first: int) -> str:
    """The density histogram as a line of blocks."""
    starts = range(first, len(one.density), MERGED)
    counts = [sum(one.density[i : i + MERGED]) for i in starts]
    most = max(*counts, 1)
    # A bin with any feature shows, however few.
    return "".join(BLOCKS[-(-c * (len(BLOCKS) - 1) // most)] for c in counts)


def _answers(found: Evaluation) -> Table:
    table = _table("prompts", "number", "agrees", "model right", "replacement right")
    for group, one in found.answers.items():
        table.add_row(
            printable(group),
            f"{one.prompts:,}",
            f"{one.agreement:.1%}",
            _number(one.model_accuracy, ".1%"),
            _number(one.replacement_accuracy, ".1%"),
        )
    return table


def _graphs(found: Evaluation) -> Table:
    table = _table("", "mean", "least", "25%", "median", "75%", "most")
    scores = {name: s for name, s in asdict(found)["graphs"].items() if name != "graphs"}
    for name, spread in scores.items():
        form = ".1e" if name == "residual" else ".3f"
        table.add_row(name, *(format(number, form) for number in spread.values()))
    return table
