"""Draws the graph that README and the home page open with: the Dallas prompt on Atlas.

python docs/picture.py    # or: make picture

Writes docs/dallas.svg, one file with its style inside, in the light colors of the HTML page.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import tl_attribution as tla
from tl_attribution.graph.paths import strongest_paths
from tl_attribution.view import layout, svg
from tl_attribution.view.style import STYLE

PROMPT = "Fact: the capital of the state containing Dallas is"
PATH = Path(__file__).parent / "dallas.svg"
PATHS = 10
"""Strongest paths whose edges are always drawn."""
MARGIN, TITLE, LEGEND = 24, 28, 40
"""Space around the map, above it for the title and below it for the legend, in pixels."""

OUTSIDE = """
svg { font-family: system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
.card { fill: var(--card); stroke: var(--line) }
.title { font-size: 19px; font-weight: 650; fill: var(--ink) }
.key { font-size: 12.5px; fill: var(--soft) }
"""


def graph() -> tla.Graph:
    """The pruned attribution graph of the prompt."""
    model, dictionary = tla.load_model("atlas"), tla.load_dictionary("atlas")
    return tla.attribute(model, PROMPT, dictionary).prune()


def draw(graph: tla.Graph) -> str:
    """The graph's map with a title and a legend, as a complete SVG file."""
    paths = strongest_paths(graph, PATHS)
    selection = layout.select(graph, paths)
    placed = layout.place(graph, selection)
    width, height = placed.width + 2 * MARGIN, placed.height + 2 * MARGIN + TITLE + LEGEND
    inner = svg.draw(graph, selection, placed, paths).replace(
        "<svg ", f'<svg x="{MARGIN}" y="{MARGIN + TITLE}" width="{placed.width:.0f}" '
        f'height="{placed.height:.0f}" ', 1,
    )  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="Attribution graph of: {escape(graph.metadata.prompt)}">'
        f"<style>{_plain_style()}</style>"
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" '
        f'rx="12"/><text class="title" x="{MARGIN}" y="{MARGIN + 18}">'
        f"{escape(graph.metadata.prompt)} …</text>"
        f"{inner}{_legend(height - MARGIN + 2)}</svg>\n"
    )


def _legend(y: float) -> str:
    """What the shapes and colors mean, in one line at height ``y``."""
    keys = [
        ('<circle cx="6" cy="-4" r="5"/>', "feature", "feature"),
        ('<path d="M6 -9l5 5l-5 5l-5 -5z"/>', "error", "reconstruction error"),
        ('<rect x="2" y="-8" width="8" height="8" rx="1.5"/>', "position", "position"),
        ('<path class="e plus" d="M0 -4h14" stroke-width="3"/>', "", "raises its target"),
        ('<path class="e minus" d="M0 -4h14" stroke-width="3"/>', "", "lowers its target"),
    ]
    parts, x = [], float(MARGIN)
    for shape, kind, text in keys:
        parts.append(
            f'<g class="n {kind}" transform="translate({x:.0f} {y:.0f})">{shape}'
            f'<text class="key" x="20" y="0">{text}</text></g>'
        )
        x += 20 + 6.6 * len(text) + 24
    return "".join(parts)


def _plain_style() -> str:
    """The page's rules for maps with its light colors written out, as not every viewer of SVG files
    knows variables."""
    colors = dict(re.findall(r"--([\w-]+): (#\w+);", STYLE.split("@media")[0]))
    rules = STYLE[STYLE.index(".map {") : STYLE.index("footer {")] + OUTSIDE
    return re.sub(r"var\(--([\w-]+)\)", lambda name: colors[name[1]], rules)


if __name__ == "__main__":
    PATH.write_text(draw(graph()))
    print(f"wrote {PATH}")
