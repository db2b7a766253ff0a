"""The supernodes of a graph as a drawing and a table: groups as boxes, lower layers below."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from tl_attribution.graph.data import GraphData
from tl_attribution.graph.description import describe_node
from tl_attribution.graph.supernodes import Supernodes, sum_groups
from tl_attribution.text import printable, quote
from tl_attribution.view.layout import CHARACTER, MIN_WIDTH, Box, answer_text, clip

MAX_TOKENS, MAX_EDGES, MAX_ROWS = 16, 80, 12
"""Maximum number of single tokens and of edges in the drawing, the strongest, and of table rows."""

LEVEL, MARGIN, SPACE = 74.0, 20.0, 22.0
"""Height of a line of boxes, room around all of them, and the least room between two."""


class Item(NamedTuple):
    """A box: a supernode, a token or an answer, with the mean layer and position of its members."""

    row: int
    kind: str
    text: str
    layer: float
    position: float


class Link(NamedTuple):
    """An edge between two boxes, by their rows."""

    source: int
    target: int
    weight: float
    flow: float


def section(graph: GraphData) -> str:
    """Render the section of the page, empty without supernodes. All names are escaped."""
    if not graph.groups:
        return ""
    grouped = sum_groups(graph)
    items = _items(graph, grouped)
    links = _links(grouped, items)
    texts = {item.row: item.text for item in items}
    drawn = {item.row for item in items}
    hidden = sum(row not in drawn for row in range(len(grouped)))
    note = "Edges are sums over the members, as wide as the influence that goes over them."
    note += f" {hidden:,} nodes that are in no group are not drawn." * bool(hidden)
    head = '<tr><th>from</th><th>to</th><th class="number">weight</th><th class="number">'
    rows = "".join(_row(link, texts) for link in links[:MAX_ROWS])
    table = f"<table>{head}influence</th></tr>{rows}</table>"
    return (
        f'<section><h2>Supernodes</h2><p class="note">{note}</p>'
        f"<style>{_highlights(items)}</style>"
        f'<div class="scroll">{_draw(graph, grouped, items, links)}</div>'
        f'<div class="scroll">{table}</div></section>'
    )


def _row(link: Link, texts: dict[int, str]) -> str:
    source, target = escape(texts[link.source]), escape(texts[link.target])
    kind = "plus" if link.weight >= 0 else "minus"
    return (
        f'<tr><td>{source}</td><td>{target}</td><td class="number"><span class="arrow {kind}">'
        f'{link.weight:+.3g}</span></td><td class="number">{link.flow:.2%}</td></tr>'
    )


def _items(graph: GraphData, grouped: Supernodes) -> list[Item]:
    """All supernodes, the answers, and the most influential tokens that are in no group."""
    named, weights = len(graph.groups), graph.target_weights.tolist()
    order = grouped.influence.argsort(descending=True, stable=True).tolist()
    single = [row for row in order if row >= named]
    kinds = {row: graph.nodes[grouped.members[row][0]].kind for row in single}
    targets = [row for row in single if weights[grouped.members[row][0]] > 0]
    tokens = [row for row in single if kinds[row] == "token" and grouped.influence[row] > 0]
    items = []
    for row in [*range(named), *tokens[:MAX_TOKENS], *targets]:
        members = list(grouped.members[row])
        layer, position = (
            float(column[members].double().mean())
            for column in (graph.nodes.layer, graph.nodes.position)
        )
        kind = "group" if row < named else kinds[row]
        items.append(Item(row, kind, _text(graph, grouped, row, kind), layer, position))
    return items


def _text(graph: GraphData, grouped: Supernodes, row: int, kind: str) -> str:
    if kind == "group":
        return clip(printable(grouped.names[row]), 40)
    node = graph.nodes[grouped.members[row][0]]
    if kind == "token":
        return quote(clip(graph.metadata.tokens[node.position]))
    if kind == "logit":
        return answer_text(graph, grouped.members[row][0], node)
    return clip(describe_node(node, graph), 40)


def _links(grouped: Supernodes, items: list[Item]) -> list[Link]:
    """The edges between the boxes, the strongest first."""
    links = [
        Link(s.row, t.row, float(grouped.weights[t.row, s.row]), float(grouped.flow[t.row, s.row]))
        for t in items
        for s in items
        if s.row != t.row and grouped.flow[t.row, s.row] > 0
    ]
    return sorted(links, key=lambda link: -link.flow)[:MAX_EDGES]


def _place(items: list[Item]) -> tuple[dict[int, Box], float, float]:
    """Boxes by row, and the width and height of the whole: a line for each layer that occurs,
    along it in the order of positions."""
    levels: dict[int, list[Item]] = {}
    for item in items:
        levels.setdefault(round(item.layer), []).append(item)
    sizes = {item.row: len(item.text) * CHARACTER + 20 for item in items}
    width = MIN_WIDTH
    for line in levels.values():
        width = max(width, sum(sizes[i.row] + SPACE for i in line) + 2 * MARGIN)
    boxes = {}
    for level, layer in enumerate(sorted(levels, reverse=True)):
        line = sorted(levels[layer], key=lambda item: (item.position, item.row))
        spare = width - 2 * MARGIN - sum(sizes[item.row] for item in line)
        gap, x = spare / len(line), MARGIN
        for item in line:
            size = sizes[item.row]
            boxes[item.row] = Box(x + (size + gap) / 2, LEVEL * (level + 0.5), size, 28.0)
            x += size + gap
    return boxes, width, LEVEL * len(levels)


def _draw(graph: GraphData, grouped: Supernodes, items: list[Item], links: list[Link]) -> str:
    boxes, width, height = _place(items)
    texts = {item.row: item.text for item in items}
    parts = [_edge(link, boxes, texts, links[0].flow) for link in reversed(links)]
    parts += [_box(graph, grouped, item, boxes[item.row]) for item in items]
    return (
        f'<svg class="map" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{width * 0.75:.0f}px" role="img" '
        f'aria-label="Supernodes of the attribution graph">{"".join(parts)}</svg>'
    )


def _highlights(items: list[Item]) -> str:
    """Style rules instead of a script: pointing at a box shows its edges."""
    edges = ",".join(f".map:has(#s{item.row}:hover) .u{item.row}" for item in items)
    return f"{edges}{{stroke-opacity:.9}}"


def _edge(link: Link, boxes: dict[int, Box], texts: dict[int, str], strongest: float) -> str:
    """A curve that leaves its source upwards and enters its target from below."""
    source, target = boxes[link.source], boxes[link.target]
    y1, y2 = source.y - source.height / 2, target.y + target.height / 2
    bend = max(18.0, (y1 - y2) * 0.45)
    share = math.sqrt(link.flow / strongest)
    sign = "plus" if link.weight >= 0 else "minus"
    title = f"{texts[link.source]} → {texts[link.target]}\n"
    title += f"weight {link.weight:+.3g}, {link.flow:.2%} of the influence"
    return (
        f'<path class="e {sign} u{link.source} u{link.target}" d="M{source.x:.1f} {y1:.1f}'
        f"C{source.x:.1f} {y1 - bend:.1f} {target.x:.1f} {y2 + bend:.1f} {target.x:.1f} {y2:.1f}"
        f'" stroke-width="{0.6 + 5 * share:.2f}" stroke-opacity="{0.15 + 0.6 * share:.2f}">'
        f"<title>{escape(title)}</title></path>"
    )


def _box(graph: GraphData, grouped: Supernodes, item: Item, box: Box) -> str:
    influence = float(grouped.influence[item.row])
    words = [describe_node(graph.nodes[row], graph) for row in grouped.members[item.row][:MAX_ROWS]]
    more = len(grouped.members[item.row]) - len(words)
    lines = [item.text, f"influence {influence:.2%}", *words, *([f"and {more} more"] * bool(more))]
    return (
        f'<g class="n {item.kind}" id="s{item.row}"><title>{escape(chr(10).join(lines))}</title>'
        f'<rect x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="8"/>'
        f'<text x="{box.x:.1f}" y="{box.y + 4:.1f}">{escape(item.text)}</text></g>'
    )
