"""What ``tl-attribution trace`` tells about a graph."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.graph.description import certificate_text, count_parts, describe_path
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.paths import strongest_paths
from tl_attribution.text import printable, quote

PATHS = 5
"""How many of the strongest paths are shown."""

BAR = 20
"""Characters of a bar that stands for certainty."""


def show(console: Console, graph: Graph, pruned: Graph, seconds: float, files: list[str]) -> None:
    """Print what a person asks first: what was read, what is answered and why, and how far to
    trust it. ``seconds`` is the time the computation took."""
    metadata = graph.metadata
    _heading(console, "tokens")
    for position, token in enumerate(metadata.tokens):
        console.print(Text(f" {position} ", "dim"), quote(token), sep="", end=" ", soft_wrap=True)
    console.print()
    if metadata.answer:
        _heading(console, "explained")
        console.print(f"  {quote(metadata.answer)}", soft_wrap=True)
    _heading(console, "answers")
    for answer in metadata.answers:
        bar = "█" * round(answer.probability * BAR)
        console.print(f"  {answer.probability:6.1%}  {quote(answer.token)}  {bar}", soft_wrap=True)
    _heading(
        console, f"graph of {metadata.model} through {metadata.dictionary}, in {seconds:.2f} s"
    )
    console.print(Padding(_sizes(graph, pruned), (0, 2)))
    if graph.certificate.expanded < graph.certificate.active:
        console.print(f"  {certificate_text(graph)}", soft_wrap=True)
    _heading(console, "strongest paths")
    paths = strongest_paths(pruned, PATHS)
    for path in paths:
        console.print(f"  {path.strength:6.1%}  {describe_path(path, pruned)}", soft_wrap=True)
    if not paths:
        console.print("  none: no token reaches what is explained")
    for file in files:
        console.print(f"\nwrote {printable(file)}", soft_wrap=True, end="")
    console.print()


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{printable(text)}", "bold"), soft_wrap=True)


def _sizes(graph: Graph, pruned: Graph) -> Table:
    """Size before and after pruning; the scores are the whole graph's, since pruning removes errors
    and would flatter them."""
    table = Table("", "whole", "pruned", box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    whole, left = count_parts(graph), count_parts(pruned)
    for name, n in whole.items():
        table.add_row(name, f"{n:,}", f"{left.get(name, 0):,}")
    for name, share in graph.scores()._asdict().items():
        table.add_row(f"{name} score", f"{share:.3f}")
    table.add_row("residual", f"{graph.residual():.1e}")
    return table
