"""Layout of the map of a graph: which nodes and edges are drawn, and at which x and y."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tl_attribution.graph.data import GraphData
from tl_attribution.graph.description import answer_label
from tl_attribution.graph.influence import flow
from tl_attribution.graph.nodes import Node
from tl_attribution.graph.paths import GraphPath
from tl_attribution.text import printable, quote

MAX_NODES = 220
"""Features and errors on the map; the most influential are drawn."""
MAX_EDGES = 400
"""Edges on the map; those that carry the most influence are drawn."""
MAX_COLUMNS = 40
"""Beyond this many tokens, those that no drawn edge touches are left out."""
NAMED_PATHS = 5
"""Features on this many of the strongest paths have their name beside them."""

SLOT, MAX_ACROSS = 17.0, 6
"""Room for one feature in pixels, and the maximum number of features side by side."""
CHARACTER, NAME_CHARACTER = 7.3, 6.2
"""Width of a character of token text and of a feature's name."""
MAX_CHARACTERS = 12
"""Characters of a token that are shown; the tooltip has the whole text."""
LEFT, RIGHT, TOP, MIN_WIDTH = 74.0, 12.0, 6.0, 1060.0
"""Room for layer names, margins, and the least width of a map."""
BAND, CHIP_BAND, GAP = 42.0, 34.0, 16.0
"""Least height of a layer, height of a line of tokens or answers, space between columns."""


class Edge(NamedTuple):
    """An edge on the map; ``share`` is the influence that goes over it."""

    source: int
    target: int
    weight: float
    share: float


@dataclass(frozen=True)
class Selection:
    """The part of a graph that is drawn: its nodes by row, edges from weak to strong, the positions
    that get a column, and the rows whose name is shown."""

    nodes: dict[int, Node]
    edges: tuple[Edge, ...]
    positions: tuple[int, ...]
    named: frozenset[int]


class Box(NamedTuple):
    """A rectangle by its center."""

    x: float
    y: float
    width: float
    height: float


class Band(NamedTuple):
    """A horizontal strip of the map."""

    name: str
    top: float
    bottom: float


@dataclass(frozen=True)
class Layout:
    """Boxes of nodes by row, strips from the top down, columns (left, right) by position, and the
    size of the whole."""

    boxes: dict[int, Box]
    bands: tuple[Band, ...]
    columns: dict[int, tuple[float, float]]
    width: float
    height: float


def clip(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Cut ``text`` to ``limit`` characters, with an ellipsis where something is missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def token_text(graph: GraphData, position: int) -> str:
    """Return the text on a token's box."""
    return quote(clip(graph.metadata.tokens[position]))


def feature_name(node: Node) -> str:
    """Return the text beside a feature: its label, or its number if it has none."""
    return clip(printable(node.label), 20) or f"#{node.index}"


def answer_text(graph: GraphData, row: int, node: Node) -> str:
    """Return the text on an answer's box: its token, and its probability if that is its weight."""
    weight = float(graph.target_weights[row])
    text = clip(answer_label(node, graph), 40)
    return f"{text} {weight:.1%}" if 0 < weight < 1 else text


def select(graph: GraphData, paths: list[GraphPath]) -> Selection:
    """Select the most influential nodes and edges of ``graph``, and all of ``paths``."""
    inner = graph.nodes.is_kind("feature", "error")
    order = torch.where(inner, graph.nodes.influence, -1.0).argsort(descending=True, stable=True)
    drawn = ~inner
    drawn[order[: min(MAX_NODES, int(inner.sum()))]] = True
    drawn[[row for path in paths for row in path.nodes]] = True
    rows = drawn.nonzero().flatten()
    edges = _strongest_edges(graph, rows, paths)
    touched = {row for edge in edges for row in edge[:2]}
    nodes = {row: graph.nodes[row] for row in rows.tolist()}
    nodes = {row: n for row, n in nodes.items() if row in touched or n.kind != "error"}
    positions = range(len(graph.metadata.tokens))
    if len(positions) > MAX_COLUMNS:
        visible = (n for row, n in nodes.items() if row in touched or n.kind == "logit")
        positions = sorted({node.position for node in visible})
    shown = set(positions)
    return Selection(
        {row: node for row, node in nodes.items() if node.position in shown},
        edges,
        tuple(positions),
        frozenset(row for path in paths[:NAMED_PATHS] for row in path.nodes[1:-1]),
    )


def _strongest_edges(
    graph: GraphData, rows: Int[Tensor, " drawn"], paths: list[GraphPath]
) -> tuple[Edge, ...]:
    carried = flow(graph.adjacency, graph.target_weights)
    best = carried[rows][:, rows].flatten().argsort(descending=True, stable=True)[:MAX_EDGES]
    targets, sources = rows[best // len(rows)].tolist(), rows[best % len(rows)].tolist()
    pairs = {pair for pair in zip(targets, sources, strict=True) if graph.adjacency[pair] != 0}
    for path in paths:
        pairs.update(zip(path.nodes[1:], path.nodes, strict=False))
    edges = [Edge(s, t, float(graph.adjacency[t, s]), float(carried[t, s])) for t, s in pairs]
    return tuple(sorted(edges, key=lambda edge: (edge.share, edge)))


def place(graph: GraphData, selection: Selection) -> Layout:
    """Place tokens along x, layers along y and the answers above them."""
    cells = _cells(selection)
    columns = _columns(graph, selection, cells)
    right = max((right for _, right in columns.values()), default=LEFT) + RIGHT
    boxes, floor = _answers(graph, selection, columns, right)
    bands = []
    for layer in range(graph.metadata.n_layers - 1, -1, -1):
        in_layer = {position: lines for (k, position), lines in cells.items() if k == layer}
        height = max([BAND, *(len(lines) * SLOT + 18 for lines in in_layer.values())])
        for position, lines in in_layer.items():
            boxes |= _stack(lines, selection, sum(columns[position]) / 2, floor + height / 2)
        bands.append(Band(f"layer {layer}", floor, floor + height))
        floor += height
    for kind in ("position", "token"):
        line = _inputs(graph, selection, kind, columns, floor)
        if line:
            boxes |= line
            bands.append(Band(f"{kind}s", floor, floor + CHIP_BAND))
            floor += CHIP_BAND
    return Layout(boxes, tuple(bands), columns, right, floor + 2)


Lines = list[list[int]]
"""Rows of the nodes of one layer and position, line by line."""


def _cells(selection: Selection) -> dict[tuple[int, int], Lines]:
    """Lines of nodes by layer and position; a node with its name beside it has a line to itself."""
    members: dict[tuple[int, int], list[int]] = {}
    for row, node in selection.nodes.items():
        if node.kind in ("feature", "error"):
            members.setdefault((node.layer, node.position), []).append(row)
    cells = {}
    for cell, rows in members.items():
        plain = [row for row in rows if row not in selection.named]
        across = min(MAX_ACROSS, max(3, math.ceil(math.sqrt(2 * len(plain)))))
        lines = [plain[start : start + across] for start in range(0, len(plain), across)]
        cells[cell] = [[row] for row in rows if row in selection.named] + lines
    return cells


def _line_width(line: list[int], selection: Selection) -> float:
    if line[0] in selection.named:
        return SLOT + len(feature_name(selection.nodes[line[0]])) * NAME_CHARACTER
    return len(line) * SLOT


def _columns(
    graph: GraphData, selection: Selection, cells: dict[tuple[int, int], Lines]
) -> dict[int, tuple[float, float]]:
    """Left and right of each column, widened evenly to the least width."""
    widths = {p: len(token_text(graph, p)) * CHARACTER + 12 for p in selection.positions}
    for (_, position), lines in cells.items():
        widest = max(_line_width(line, selection) for line in lines)
        widths[position] = max(widths[position], widest)
    spare = MIN_WIDTH - LEFT - RIGHT - sum(widths.values()) - GAP * len(widths)
    padding = GAP + max(0.0, spare) / max(1, len(widths))
    columns, x = {}, LEFT
    for position, width in widths.items():
        columns[position] = (x, x + width + padding)
        x += width + padding
    return columns


def _stack(lines: Lines, selection: Selection, x: float, y: float) -> dict[int, Box]:
    """The lines of one cell, centered on (x, y)."""
    boxes = {}
    for j, line in enumerate(lines):
        start = x - _line_width(line, selection) / 2 + SLOT / 2
        height = y + (j - (len(lines) - 1) / 2) * SLOT
        boxes |= {row: Box(start + i * SLOT, height, SLOT, SLOT) for i, row in enumerate(line)}
    return boxes


def _answers(
    graph: GraphData, selection: Selection, columns: dict[int, tuple[float, float]], right: float
) -> tuple[dict[int, Box], float]:
    """The answers above their columns, the likeliest on the right, pushed aside where they collide
    and into a further line where there is no room left; and where the layers begin."""
    answers = {row: node for row, node in selection.nodes.items() if node.kind == "logit"}
    weight = graph.target_weights.tolist()
    boxes, end, y = {}, right, TOP + CHIP_BAND / 2
    for row in sorted(answers, key=lambda row: (-answers[row].position, -weight[row])):
        width = len(answer_text(graph, row, answers[row])) * CHARACTER + 18
        if end - width < LEFT and end < right:
            end, y = right, y + CHIP_BAND
        x = min(sum(columns[answers[row].position]) / 2, end - width / 2)
        boxes[row] = Box(x, y, width, 24.0)
        end = x - width / 2 - 8
    return boxes, y + CHIP_BAND / 2 + 12


def _inputs(
    graph: GraphData,
    selection: Selection,
    kind: str,
    columns: dict[int, tuple[float, float]],
    floor: float,
) -> dict[int, Box]:
    """Tokens or positions in one line."""
    boxes = {}
    for row, node in selection.nodes.items():
        if node.kind == kind:
            text = len(token_text(graph, node.position)) * CHARACTER + 10
            size = (text, 24.0) if kind == "token" else (8.0, 8.0)
            x = sum(columns[node.position]) / 2
            boxes[row] = Box(x, floor + CHIP_BAND / 2, *size)
    return boxes
