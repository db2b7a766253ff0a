"""Output of a study: text, tables and figures, in a notebook or on the terminal.

Every number of a page is printed by these functions, from the code that computed it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

PICTURES = Path("build/biology")
"""Where figures go when a study is run as a script."""
RESULTS = "application/json"
"""Media type of the results that a notebook passes to run.py."""


def in_notebook() -> bool:
    """Whether this process is a notebook kernel."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def _display(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    from IPython.display import display

    display(data, raw=True, metadata=metadata or {})


def say(markdown: str) -> None:
    """Show a paragraph."""
    if in_notebook():
        _display({"text/markdown": markdown})
    else:
        print(f"{markdown}\n")


def text(value: Any) -> str:
    """Text of a table cell; a float is a share from 0 to 1 and is shown in percent."""
    return f"{100 * value:.1f}%" if isinstance(value, float) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a Markdown table; floats are shares."""
    lines = [header, ["---"] * len(header), *rows]
    say("\n".join(f"| {' | '.join(map(text, line))} |" for line in lines))


def show(figure: Figure, name: str, caption: str) -> None:
    """Show a figure and its caption."""
    if not in_notebook():
        PICTURES.mkdir(parents=True, exist_ok=True)
        figure.savefig(PICTURES / f"{name}.png", dpi=110)
        print(f"{PICTURES / name}.png: {caption}\n")
        return
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    svg = "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
    _display({"image/svg+xml": svg, "text/plain": caption}, {"name": name})
    say(f"*{caption}*")


class Test(NamedTuple):
    """One row of the table of all studies: what was changed, the number of swaps, and the share
    with the expected answer, for the swaps and for their controls."""

    what: str
    n: int
    rate: float
    control: float


def finish(title: str, tests: Sequence[Test], **more: Any) -> None:
    """Report a study's results: its tests, and further numbers by name."""
    results = {"title": title, "tests": [t._asdict() for t in tests], **more}
    rounded = json.loads(json.dumps(results), parse_float=lambda number: round(float(number), 4))
    if in_notebook():
        _display({RESULTS: rounded})
    else:
        print(json.dumps(rounded, indent=1))
