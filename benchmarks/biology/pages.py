"""What a study shows: text, tables and figures, in a notebook or, without one, on the terminal.

Numbers come into a page only through here, from the code that computed them.
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
"""How a notebook hands its results to the runner."""


def in_notebook() -> bool:
    """Whether this is run by a notebook's kernel."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def _display(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    from IPython.display import display

    display(data, raw=True, metadata=metadata or {})


def say(markdown: str) -> None:
    """A paragraph."""
    if in_notebook():
        _display({"text/markdown": markdown})
    else:
        print(f"{markdown}\n")


def text(value: Any) -> str:
    """A cell of a table: shares are floats from 0 to 1, and shown in per cent."""
    return f"{100 * value:.1f}%" if isinstance(value, float) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A Markdown table; floats are shares."""
    lines = [header, ["---"] * len(header), *rows]
    say("\n".join(f"| {' | '.join(map(text, line))} |" for line in lines))


def show(figure: Figure, name: str, caption: str) -> None:
    """A figure, and what is to be seen on it, in words."""
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
    """One line of the table of all studies: what was changed, how many times, how often the wanted
    answer came, and how often with random features in their place."""

    what: str
    n: int
    rate: float
    control: float


def finish(title: str, tests: Sequence[Test], **more: Any) -> None:
    """Hand over a study's results: the tests that it stands on, and further numbers by name."""
    results = {"title": title, "tests": [t._asdict() for t in tests], **more}
    rounded = json.loads(json.dumps(results), parse_float=lambda number: round(float(number), 4))
    if in_notebook():
        _display({RESULTS: rounded})
    else:
        print(json.dumps(rounded, indent=1))
