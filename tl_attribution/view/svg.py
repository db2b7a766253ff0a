"""The map of a graph as inline SVG: tokens along x, layers along y, influence as width and size."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise

from tl_attribution.graph.data import GraphData
from tl_attribution.graph.description import describe_node
from tl_attribution.graph.nodes import Node
from tl_attribution.graph.paths import GraphPath
from tl_attribution.view.layout import (
    Box,
    Edge,
    Layout,
    Selection,
    answer_text,
    feature_name,
    token_text,
)

SHRINK = 0.75
"""How far a map may shrink to fit its page before it scrolls."""

SQUARE = 20.0
"""Boxes higher than this are chips with text; edges end at their rim."""


def draw(graph: GraphData, selection: Selection, layout: Layout, paths: list[GraphPath]) -> str:
    """Draw the map as one ``<svg>`` element; everything from prompts and labels is escaped.

    Nodes and edges on a path carry its class, so that :func:`highlights` can point at them.
    """
    nodes = selection.nodes
    strongest = max((edge.share for edge in selection.edges), default=1.0)
    inner = [n.influence for n in nodes.values() if n.kind in ("feature", "error")]
    largest = max(inner, default=1.0)
    parts = [*_columns(layout), *_bands(layout)]
    parts += [_edge(e, graph, layout, paths, strongest) for e in selection.edges]
    for row, node in nodes.items():
        shape = _shape(graph, row, node, layout.boxes[row], largest)
        name = _name(node, layout.boxes[row]) if row in selection.named else ""
        classes = " ".join(["n", node.kind, *_classes(row, paths)])
        title = escape(_tooltip(graph, row, node))
        parts.append(f'<g class="{classes}" id="n{row}"><title>{title}</title>{shape}{name}</g>')
    return (
        f'<svg class="map" viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" '
        f'style="min-width:{SHRINK * layout.width:.0f}px" role="img" '
        f'aria-label="Map of the attribution graph">{"".join(parts)}</svg>'
    )


def _classes(row: int, paths: list[GraphPath]) -> list[str]:
    """``["p0", "p3"]`` for a node on the first and fourth path."""
    return [f"p{i}" for i, path in enumerate(paths) if row in path.nodes]


def highlights(selection: Selection, paths: list[GraphPath]) -> str:
    """Return style rules instead of a script: pointing at a node shows its edges, pointing at a row
    of the table of paths shows that path, and everything else fades."""
    touched = sorted({row for edge in selection.edges for row in edge[:2]})
    edges = ",".join(f".map:has(#n{row}:hover) .t{row}" for row in touched)
    chains = ",".join(f"body:has(#path{i}:hover) .map .p{i}" for i in range(len(paths)))
    return (
        ".map:has(.n:hover) .e,body:has(.path:hover) .map .e{stroke-opacity:.04}"
        "body:has(.path:hover) .map .n{opacity:.25}"
        + (f"{edges}{{stroke-opacity:.9}}" if edges else "")
        + (f"{chains}{{opacity:1;stroke-opacity:.95}}" if chains else "")
    )


def _bands(layout: Layout) -> list[str]:
    return [
        f'<line class="grid" x1="66" x2="{layout.width:.0f}" y1="{top:.0f}" y2="{top:.0f}"/>'
        f'<text class="band" x="58" y="{(top + bottom) / 2 + 4:.0f}">{name}</text>'
        for name, top, bottom in layout.bands
    ]


def _columns(layout: Layout) -> list[str]:
    top, bottom = layout.bands[0].top, layout.bands[-1].bottom
    return [
        f'<rect class="column" x="{left + 3:.1f}" y="{top:.0f}" rx="6" '
        f'width="{right - left - 6:.1f}" height="{bottom - top:.0f}"/>'
        for left, right in layout.columns.values()
    ]


def _edge(
    edge: Edge, graph: GraphData, layout: Layout, paths: list[GraphPath], strongest: float
) -> str:
    """A curve that leaves its source upwards and enters its target from below."""
    source, target = layout.boxes[edge.source], layout.boxes[edge.target]
    x1, y1 = source.x, source.y - min(source.height / 2, 6)
    x2, y2 = target.x, target.y + min(target.height / 2, 12 if target.height > SQUARE else 6)
    bend = max(18.0, (y1 - y2) * 0.45)
    share = math.sqrt(edge.share / strongest)
    chains = "".join(f" p{i}" for i, p in enumerate(paths) if edge[:2] in pairwise(p.nodes))
    sign = "plus" if edge.weight >= 0 else "minus"
    words = [describe_node(graph.nodes[row], graph) for row in edge[:2]]
    title = f"{words[0]} → {words[1]}\nweight {edge.weight:+.3g}, {edge.share:.2%} of the influence"
    curve = f"C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f} {x2:.1f} {y2:.1f}"
    return (
        f'<path class="e {sign} t{edge.source} t{edge.target}{chains}" '
        f'd="M{x1:.1f} {y1:.1f}{curve}" stroke-width="{0.6 + 4 * share:.2f}" '
        f'stroke-opacity="{0.1 + 0.65 * share:.2f}">'
        f"<title>{escape(title)}</title></path>"
    )


def _shape(graph: GraphData, row: int, node: Node, box: Box, largest: float) -> str:
    radius = 3.4 + 4.2 * math.sqrt(max(0.0, node.influence) / max(largest, 1e-30))
    match node.kind:
        case "feature":
            return f'<circle cx="{box.x:.1f}" cy="{box.y:.1f}" r="{radius:.1f}"/>'
        case "error":
            return (
                f'<path d="M{box.x:.1f} {box.y - radius:.1f}l{radius:.1f} {radius:.1f}'
                f'l{-radius:.1f} {radius:.1f}l{-radius:.1f} {-radius:.1f}z"/>'
            )
        case "position":
            return f'<rect x="{box.x - 4:.1f}" y="{box.y - 4:.1f}" width="8" height="8" rx="1.5"/>'
        case "token":
            return _chip(box, token_text(graph, node.position))
    return _chip(box, answer_text(graph, row, node))


def _chip(box: Box, text: str) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="6"/>'
        f'<text x="{box.x:.1f}" y="{box.y + 4:.1f}">{escape(text)}</text>'
    )


def _name(node: Node, box: Box) -> str:
    """The label or number of a feature on one of the strongest paths, beside it."""
    text = escape(feature_name(node))
    return f'<text class="name" x="{box.x + 10:.1f}" y="{box.y + 3.5:.1f}">{text}</text>'


def _tooltip(graph: GraphData, row: int, node: Node) -> str:
    lines = [describe_node(node, graph)]
    if node.kind == "feature":
        lines.append(f"activation {node.activation:.3g}, influence {node.influence:.2%}")
    elif node.kind != "logit":
        lines.append(f"influence {node.influence:.2%}")
    if node.kind in ("feature", "logit"):
        measured, constant = float(graph.preactivation[row]), float(graph.constant[row])
        lines.append(f"pre-activation {measured:.3g}, of which constant {constant:.3g}")
    return "\n".join(lines)
