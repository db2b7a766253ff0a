"""``tl-attribution list``: the registered dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tl_attribution.dictionaries.catalog import CatalogEntry

COLUMNS = ("name", "model", "kind", "features", "size", "reads → writes", "license", "source")
WIDE, PIPE_WIDTH = 160, 1000
"""Width from which a terminal shows every column; width of a pipe, where nothing is cut."""

HINT = """\
To trace a prompt on the model that a dictionary was trained on:
  tl-attribution trace "{prompt}" --dictionary {name} --html graph.html
Every model's MLP neurons are a dictionary too: --model MODEL --dictionary neurons"""
PROMPTS = {"atlas": "Fact: the capital of the state containing Dallas is"}
"""Example prompt by model; :data:`PROMPT` for all others."""
PROMPT = "The capital of the state containing Dallas is"

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", help="Only dictionaries of models whose name contains this.", show_default=False
    ),
]


def list_names(model: ModelName = None) -> None:
    """List the registered dictionaries, by the names that --dictionary takes."""
    from tl_attribution.cli import terminal
    from tl_attribution.dictionaries import catalog
    from tl_attribution.text import printable

    entries = catalog.names() if model is None else catalog.trained_on(model)
    console = terminal.console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    columns = COLUMNS if console.width >= WIDE else COLUMNS[:5]
    console.print(_table(entries, columns))
    more = "" if columns == COLUMNS else "A wider terminal, or a pipe, shows every column.\n"
    name, entry = next(iter(entries.items()))
    prompt = PROMPTS.get(str(entry.model), PROMPT)
    hint = HINT.format(prompt=prompt, name=printable(name))
    console.print(f"\n{more}{hint}", style="dim", soft_wrap=True)


def _table(entries: dict[str, CatalogEntry], columns: Sequence[str]) -> Table:
    from rich.table import Table

    from tl_attribution.text import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        right = name in ("features", "size")
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for name, entry in entries.items():
        hooks = f"{entry.reads or '?'} → {entry.writes or '?'}"
        cells = (
            name,
            entry.model,
            entry.kind,
            _features(entry),
            _bytes(entry.size),
            hooks if entry.reads or entry.writes else None,
            entry.license,
            entry.source if entry.host is None else f"{entry.source} ({entry.host})",
        )
        table.add_row(*(printable(cell or "–") for cell in cells[: len(columns)]))
    return table


def _features(entry: CatalogEntry) -> str | None:
    """Layers × features per layer; ``?`` for an unknown number."""
    if entry.layers is None and entry.features is None:
        return None
    features = "?" if entry.features is None else f"{entry.features:,}"
    return f"{entry.layers or '?'} × {features}"


def _bytes(size: int | None) -> str | None:
    if size is None:
        return None
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
