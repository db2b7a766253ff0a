"""Report of ``tl-attribution intervene``: changed features, answers before and after."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.cli.terminal import print_heading
from tl_attribution.interventions.intervene import InterventionResult
from tl_attribution.text import quote


def show(console: Console, result: InterventionResult, texts: list[str], answers: int) -> None:
    """Print the tokens, the changed features, and the likeliest answers of both runs. ``texts``:
    the generated text before and after, or none."""
    print_heading(console, "tokens")
    for position, token in enumerate(result.tokens):
        console.print(Text(f" {position} ", "dim"), quote(token), sep="", end=" ", soft_wrap=True)
    console.print()
    print_heading(console, f"changed ({result.propagation})")
    console.print(Padding(_changes(result), (0, 2)))
    print_heading(console, "answers")
    console.print(Padding(_answers(result, answers), (0, 2)))
    for when, text in zip(("before", "after"), texts, strict=False):
        console.print(f"\n  {when:<7} … {quote(text)}", soft_wrap=True, end="")
    console.print()


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    return table


def _changes(result: InterventionResult) -> Table:
    table = _table("layer", "position", "feature", "before", "after")
    c = result.clamps
    columns = (c.layer, c.position, c.feature, c.original, c.values(c.original))
    for layer, position, feature, before, after in zip(*(x.tolist() for x in columns), strict=True):
        place = f"{quote(result.tokens[position])} ({position})"
        table.add_row(str(layer), Text(place), str(feature), f"{before:.3f}", f"{after:.3f}")
    return table


def _answers(result: InterventionResult, n: int) -> Table:
    """The likeliest tokens of either run, in the order of the run after."""
    before, after = (x[-1].softmax(-1) for x in (result.original_logits, result.logits))
    logit_changes = (result.logits[-1] - result.original_logits[-1]).tolist()
    token_ids = {i for p in (before, after) for i in p.topk(min(n, len(p))).indices.tolist()}
    table = _table("token", "before", "after", "logit")
    table.columns[0].justify = "left"
    for token_id in sorted(token_ids, key=lambda i: -float(after[i])):
        text = quote(result.prompt_run.host.token_strings([token_id])[0])
        shares = [f"{float(p[token_id]):.1%}" for p in (before, after)]
        table.add_row(Text(text), *shares, f"{logit_changes[token_id]:+.2f}")
    return table
