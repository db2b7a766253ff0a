"""What ``tl-attribution intervene`` tells: what was changed, and the answers before and after."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tl_attribution.interventions.intervene import InterventionResult
from tl_attribution.text import quote


def show(console: Console, ran: InterventionResult, texts: list[str], answers: int) -> None:
    """Print the tokens, the changed features, and the likeliest answers of both runs; ``texts`` is
    what was generated before and after, if that was asked for."""
    _heading(console, "tokens")
    for position, token in enumerate(ran.tokens):
        console.print(Text(f" {position} ", "dim"), quote(token), sep="", end=" ", soft_wrap=True)
    console.print()
    _heading(console, f"changed ({ran.propagation})")
    console.print(Padding(_changed(ran), (0, 2)))
    _heading(console, "answers")
    console.print(Padding(_answers(ran, answers), (0, 2)))
    for when, text in zip(("before", "after"), texts, strict=False):
        console.print(f"\n  {when:<7} … {quote(text)}", soft_wrap=True, end="")
    console.print()


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", "bold"), soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    return table


def _changed(ran: InterventionResult) -> Table:
    table = _table("layer", "position", "feature", "before", "after")
    c = ran.clamps
    columns = (c.layer, c.position, c.feature, c.original, c.values(c.original))
    for layer, position, feature, before, after in zip(*(x.tolist() for x in columns), strict=True):
        place = f"{quote(ran.tokens[position])} ({position})"
        table.add_row(str(layer), Text(place), str(feature), f"{before:.3f}", f"{after:.3f}")
    return table


def _answers(ran: InterventionResult, n: int) -> Table:
    """The likeliest tokens of either run, in the order of the run after."""
    before, after = (x[-1].softmax(-1) for x in (ran.original_logits, ran.logits))
    moved = (ran.logits[-1] - ran.original_logits[-1]).tolist()
    shown = {i for p in (before, after) for i in p.topk(min(n, len(p))).indices.tolist()}
    table = _table("token", "before", "after", "logit")
    table.columns[0].justify = "left"
    for token in sorted(shown, key=lambda i: -float(after[i])):
        text = quote(ran.prompt_run.host.token_strings([token])[0])
        shares = [f"{float(p[token]):.1%}" for p in (before, after)]
        table.add_row(Text(text), *shares, f"{moved[token]:+.2f}")
    return table
