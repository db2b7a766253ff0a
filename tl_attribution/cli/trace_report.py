"""Report of ``tl-attribution trace``: answers, sizes, scores and strongest paths of a graph."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.cli.terminal import print_files, print_heading
from tl_attribution.graph.description import certificate_text, count_parts, describe_path
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.paths import strongest_paths
from tl_attribution.text import quote

PATHS = 5
"""Number of the strongest paths that are shown."""

BAR = 20
"""Characters of the bar of an answer with probability 1."""


def show(console: Console, graph: Graph, pruned: Graph, seconds: float, files: list[str]) -> None:
    """Print tokens, answers, sizes, scores and the strongest paths. ``seconds``: time of the
    computation; ``files``: paths and addresses that were written."""
    metadata = graph.metadata
    print_heading(console, "tokens")
    for position, token in enumerate(metadata.tokens):
        console.print(Text(f" {position} ", "dim"), quote(token), sep="", end=" ", soft_wrap=True)
    console.print()
    if metadata.answer:
        print_heading(console, "explained")
        console.print(f"  {quote(metadata.answer)}", soft_wrap=True)
    print_heading(console, "answers")
    for answer in metadata.answers:
        bar = "█" * round(answer.probability * BAR)
        console.print(f"  {answer.probability:6.1%}  {quote(answer.token)}  {bar}", soft_wrap=True)
    print_heading(
        console, f"graph of {metadata.model} through {metadata.dictionary}, in {seconds:.2f} s"
    )
    console.print(Padding(_sizes(graph, pruned), (0, 2)))
    if graph.certificate.expanded < graph.certificate.active:
        console.print(f"  {certificate_text(graph)}", soft_wrap=True)
    print_heading(console, "strongest paths")
    paths = strongest_paths(pruned, PATHS)
    for path in paths:
        console.print(f"  {path.strength:6.1%}  {describe_path(path, pruned)}", soft_wrap=True)
    if not paths:
        console.print("  none: no token reaches what is explained")
    print_files(console, files)


def _sizes(graph: Graph, pruned: Graph) -> Table:
    """Sizes before and after pruning, and the scores of the whole graph: pruning removes error
    nodes and would inflate them."""
    table = Table("", "whole", "pruned", box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    whole, kept = count_parts(graph), count_parts(pruned)
    for name, n in whole.items():
        table.add_row(name, f"{n:,}", f"{kept.get(name, 0):,}")
    for name, share in graph.scores()._asdict().items():
        table.add_row(f"{name} score", f"{share:.3f}")
    table.add_row("residual", f"{graph.residual():.1e}")
    return table
