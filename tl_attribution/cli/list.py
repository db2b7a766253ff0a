"""``tl-attribution list``: the dictionaries that have a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tl_attribution.dictionaries.catalog import CatalogEntry

COLUMNS = ("name", "model", "kind", "features", "size", "reads → writes", "licence", "from")
WIDE, ENDLESS = 160, 1000
"""Terminal columns from which on all of these are shown; and in a pipe, where nothing is cut."""

HINT = """\
A graph of a prompt, on the model that a dictionary was trained on:
  tl-attribution trace "{prompt}" --dictionary {name} --html graph.html
Every model's own MLP neurons are a dictionary too: --model MODEL --dictionary neurons"""
PROMPTS = {"atlas": "Fact: the capital of the state containing Dallas is"}
"""By model; every other one's is next."""
PROMPT = "The capital of the state containing Dallas is"

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", help="Only those whose model has this in its name.", show_default=False
    ),
]


def list_names(model: ModelName = None) -> None:
    """List the dictionaries that have a name. --dictionary takes one, a path, or an address on the
    Hub: org/name."""
    from tl_attribution.cli import terminal
    from tl_attribution.dictionaries import catalog
    from tl_attribution.text import printable

    found = catalog.names() if model is None else catalog.trained_on(model)
    console = terminal.console()
    if not console.is_terminal:
        console.width = ENDLESS
    shown = COLUMNS if console.width >= WIDE else COLUMNS[:5]
    console.print(_table(found, shown))
    more = "" if shown == COLUMNS else "A wider terminal, or a pipe, shows all that is known.\n"
    name, entry = next(iter(found.items()))
    prompt = PROMPTS.get(str(entry.model), PROMPT)
    hint = HINT.format(prompt=prompt, name=printable(name))
    console.print(f"\n{more}{hint}", style="dim", soft_wrap=True)


def _table(found: dict[str, CatalogEntry], shown: Sequence[str]) -> Table:
    from rich.table import Table

    from tl_attribution.text import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in shown:
        right = name in ("features", "size")
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for name, entry in found.items():
        hooks = f"{entry.reads or '?'} → {entry.writes or '?'}"
        cells = (
            name,
            entry.model,
            entry.kind,
            _features(entry),
            _bytes(entry.size),
            hooks if entry.reads or entry.writes else None,
            entry.licence,
            entry.source if entry.host is None else f"{entry.source} ({entry.host})",
        )
        table.add_row(*(printable(cell or "–") for cell in cells[: len(shown)]))
    return table


def _features(entry: CatalogEntry) -> str | None:
    """Layers × features of each; ``?`` for what is not known."""
    if entry.layers is None and entry.features is None:
        return None
    features = "?" if entry.features is None else f"{entry.features:,}"
    return f"{entry.layers or '?'} × {features}"


def _bytes(size: int | None) -> str | None:
    if size is None:
        return None
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
