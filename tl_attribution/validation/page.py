"""The report of a validation: one self-contained page with plots, without network or scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from tl_attribution.text import printable
from tl_attribution.validation.results import AblationEffect, Validation
from tl_attribution.view.style import STYLE

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 316, 52, 40, 28
SHOWN = 10
"""Rows of the table of features."""

PLOTS = """
.plots { display: grid; grid-template-columns: repeat(auto-fit,minmax(320px,1fr)); gap: 18px }
.plots section { margin: 0 }
.plots + section, .plots { margin-bottom: 18px }
.plot { width: 100%; height: auto; display: block }
.plot text { font-size: 11px; fill: var(--soft) }
.plot .axis { stroke: var(--line) }
.dot { fill: var(--feature); fill-opacity: .55 }
.line { fill: none; stroke-width: 2.2 }
.l0 { stroke: var(--feature) } .l1 { stroke: var(--minus) } .l2 { stroke: var(--faint) }
.t0 { fill: var(--feature) !important } .t1 { fill: var(--minus) !important }
.verdict { font-size: 17px; margin: 0 0 8px }
"""


def render(result: Validation) -> str:
    """The whole page; everything from prompts and names is escaped."""
    title = f"Does the graph predict {printable(result.model)}?"
    first, *rest = result.verdict
    sentences = "".join(f"<li>{escape(s)}</li>" for s in rest)
    plots = [
        ("Influence and effect", "Each dot is a feature that was ablated.", _scatter(result)),
        ("Ablated together", "The first N features of each ranking.", _curves(result)),
        (
            "Layer by layer",
            "Response to a perturbation: model against dictionary.",
            _layers(result),
        ),
    ]
    panels = "".join(
        f'<section><h2>{name}</h2><p class="note">{note}</p>{plot}</section>'
        for name, note, plot in plots
    )
    tables = _table("Features", result.tested) + _table("Supernodes", result.supernodes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{PLOTS}</style></head><body><main>"
        f'<p class="eyebrow">{escape(title)}</p><h1>{escape(printable(result.prompt))}</h1>'
        f'<section><p class="verdict"><b>{escape(first)}</b></p><ul>{sentences}</ul></section>'
        f'<div class="plots">{panels}</div>{tables}'
        f"<footer>{escape(printable(result.dictionary))}: {result.features:,} features in it, "
        f"{len(result.tested):,} ablated one by one. Effects: by how much the answers change, as a "
        "share of all that reaches them; MLPs are the model's own, attention is frozen.</footer>"
        "</main></body></html>"
    )


def _frame(x: tuple[float, float], y: tuple[float, float], names: tuple[str, str]) -> list[str]:
    """Axes with the ends of both ranges, and their names."""
    right, floor = WIDTH - 8, HEIGHT - BOTTOM
    middle = (LEFT + right) / 2
    return [
        f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{floor}H{right}"/>',
        f'<text x="{LEFT}" y="{floor + 15}">{x[0]:.3g}</text>',
        f'<text x="{right}" y="{floor + 15}" text-anchor="end">{x[1]:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">{y[0]:.2g}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{y[1]:.2g}</text>',
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{names[0]}</text>',
        f'<text x="14" y="{floor / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {floor / 2})">{names[1]}</text>',
    ]


def _at(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - 8 - LEFT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _svg(parts: Iterable[str], label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _scatter(result: Validation) -> str:
    """Both axes are logarithmic; what is zero lies on them."""
    columns = [[getattr(t, name) for t in result.tested] for name in ("influence", "effect")]
    ends, logs = [], []
    for column in columns:
        known = [v for v in column if v > 0] or [1e-3, 1.0]
        ends.append((min(known), max(known)))
        logs.append([math.log10(max(v, ends[-1][0])) for v in column])
    bounds = [(math.log10(a), math.log10(b)) for a, b in ends]
    dots = [
        f'<circle class="dot" r="3.5" cx="{_x(_at(x, *bounds[0])):.1f}" '
        f'cy="{_y(_at(y, *bounds[1])):.1f}"><title>{escape(t.name)}</title></circle>'
        for t, x, y in zip(result.tested, *logs, strict=True)
    ]
    names = ("influence in the graph (log)", "effect on the answers (log)")
    return _svg(_frame(ends[0], ends[1], names) + dots, "Effect against influence")


def _line(xs: Sequence[float], ys: Sequence[float], number: int) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="line l{number}" points="{points}"/>'


def _legend(names: Sequence[str]) -> list[str]:
    """In a row above the plot, where no line runs."""
    third = (WIDTH - LEFT) / 3
    return [
        f'<text class="t{i}" x="{LEFT + third * i:.0f}" y="14">{name}</text>'
        for i, name in enumerate(names)
    ]


def _curves(result: Validation) -> str:
    curve = result.curve
    lines = [curve.influence, curve.activation, curve.random]
    if not curve.counts:
        return ""
    high = max(max(line) for line in lines)
    last = math.log(curve.counts[-1]) or 1.0
    xs = [_x(math.log(c) / last) for c in curve.counts]
    drawn = [
        _line(xs, [_y(_at(v, 0.0, high or 1.0)) for v in line], i) for i, line in enumerate(lines)
    ]
    ends = (1.0, float(curve.counts[-1])), (0.0, high)
    names = ("features ablated (log)", "effect on the answers")
    legend = _legend(("by influence", "by activation", "at random"))
    return _svg(
        _frame(ends[0], ends[1], names) + drawn + legend, "Effect of ablating the first features"
    )


def _layers(result: Validation) -> str:
    known = [one for one in result.layers if one.cosine is not None and one.error is not None]
    if not known:
        return '<p class="note">No perturbation reached a later layer.</p>'
    first, last = known[0].layer, known[-1].layer
    values = [[one.cosine or 0.0 for one in known], [one.error or 0.0 for one in known]]
    low, high = min(0.0, *values[0]), max(1.0, *values[1])
    xs = [_x(_at(*map(float, (one.layer, first, last)))) for one in known]
    drawn = [_line(xs, [_y(_at(v, low, high)) for v in line], i) for i, line in enumerate(values)]
    drawn += [
        f'<circle class="t{i}" r="3" cx="{x:.1f}" cy="{_y(_at(v, low, high)):.1f}"/>'
        for i, line in enumerate(values)
        for x, v in zip(xs, line, strict=True)
    ]
    ends = (float(first), float(last)), (low, high)
    legend = _legend(("cosine", "squared error, normalized"))
    return _svg(_frame(*ends, ("layer", "")) + drawn + legend, "Faithfulness by layer")


def _table(name: str, tested: Sequence[AblationEffect]) -> str:
    """The most influential ones."""
    if not tested:
        return ""
    best = sorted(tested, key=lambda t: -t.influence)[:SHOWN]
    rows = "".join(
        f'<tr><td>{escape(t.name)}</td><td class="number">{t.activation:.3g}</td>'
        f'<td class="number">{t.influence:.2%}</td><td class="number">{t.effect:.2%}</td></tr>'
        for t in best
    )
    head = "".join(f'<th class="number">{h}</th>' for h in ("activation", "influence", "effect"))
    return (
        f"<section><h2>{name}</h2><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )
