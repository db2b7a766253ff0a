"""A graph as one self-contained HTML page: no network, no scripts, nothing outside the file.

Prompts, labels and names come from people and files, so all of them are escaped, and a content
security policy forbids everything but the page's own style.
"""

from __future__ import annotations

from html import escape

from torch import Tensor

from tl_attribution.graph.data import GraphData, is_pruned, is_subgraph
from tl_attribution.graph.description import (
    certificate_text,
    count_parts,
    describe_node,
    subgraph_text,
)
from tl_attribution.graph.nodes import Node
from tl_attribution.graph.paths import GraphPath, strongest_paths
from tl_attribution.text import printable, quote
from tl_attribution.view import layout, supernodes, svg
from tl_attribution.view.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content security policy: the page may only apply the style that it contains."""

LARGE_NODES, LARGE_EDGES = 300, 4000
"""An unpruned graph with more than this is pruned before it is shown."""

MAX_PATHS, MAX_FEATURES = 10, 20
"""Maximum number of rows of the two tables."""


def render(graph: GraphData) -> str:
    """Render the page as a complete HTML document.

    A large graph that was not pruned is pruned first (see :func:`readable`); the page says so, and
    its numbers stay the whole graph's.
    """
    shown = readable(graph)
    paths = strongest_paths(shown, MAX_PATHS)
    selection = layout.select(shown, paths)
    title = escape(printable(graph.metadata.prompt))
    names = escape(printable(f"{graph.metadata.model} · {graph.metadata.dictionary}"))
    body = (
        f'<header><p class="eyebrow">Attribution graph · {names}</p><h1>{title}</h1></header>'
        f'<div class="top">{_answers(graph)}{_numbers(graph)}</div>'
        f"{supernodes.section(graph)}"
        f"{_map(graph, shown, selection, paths)}{_paths(shown, paths)}{_features(shown)}"
        "<footer>Drawn by tl-attribution. This file needs no network and runs no scripts.</footer>"
    )
    style = STYLE + svg.highlights(selection, paths)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def readable(graph: GraphData) -> GraphData:
    """Return the graph, pruned to 0.8 of the influence and 0.98 of the edges if it is large."""
    large = len(graph.nodes) > LARGE_NODES or graph.n_edges > LARGE_EDGES
    return graph.prune() if large and not is_pruned(graph) else graph


def embed(graph: GraphData, height: int = 760) -> str:
    """Render the page in a sandboxed frame, for notebooks."""
    return (
        f'<iframe sandbox title="Attribution graph" srcdoc="{escape(render(graph))}" '
        f'style="width:100%;height:{height}px;border:0;border-radius:8px"></iframe>'
    )


def _chip(text: str) -> str:
    return f'<span class="chip">{escape(quote(text))}</span>'


def _bar(share: float) -> str:
    return f'<span class="bar"><i style="width:{100 * min(1.0, max(0.0, share)):.1f}%"></i></span>'


def _answers(graph: GraphData) -> str:
    rows = "".join(
        f'<tr><td>{_chip(answer.token)}</td><td class="wide">{_bar(answer.probability)}</td>'
        f'<td class="number">{answer.probability:.1%}</td></tr>'
        for answer in graph.metadata.answers
    )
    return (
        '<section><h2>Top answers</h2><p class="note">What the model says next, with its '
        f'probability.</p><table class="answers">{rows}</table></section>'
    )


def _numbers(graph: GraphData) -> str:
    size, scores, c = count_parts(graph), graph.scores(), graph.certificate
    whole = c.expanded == c.active and not is_pruned(graph) and not is_subgraph(graph)
    active = "all active" if whole else f"of {c.active:,} active"
    tiles = [
        ("Replacement", f"{scores.replacement:.3f}", "of the influence comes through features"),
        ("Completeness", f"{scores.completeness:.3f}", "of what reaches the nodes is no error"),
        ("Residual", f"{graph.residual():.0e}", "between in-edges and the model itself"),
        ("Features", f"{size.get('features', 0):,}", active),
        ("Nodes", f"{len(graph.nodes):,}", f"{size.get('errors', 0):,} of them errors"),
        ("Edges", f"{size['edges']:,}", "that are not zero"),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in tiles
    )
    partial = f"This graph is partial: {certificate_text(graph)}." if c.expanded < c.active else ""
    return (
        f'<section><h2>The graph in numbers</h2><p class="note">{partial or _scope_note(graph)}</p>'
        f'<dl class="tiles">{cells}</dl></section>'
    )


def _scope_note(graph: GraphData) -> str:
    if is_pruned(graph):
        return f"Pruned to {_thresholds(graph)}; the scores are of what is left."
    if is_subgraph(graph):
        return f"{subgraph_text(graph)}; the scores are of what is left."
    return "Every active feature is expanded; nothing is left out."


def _thresholds(graph: GraphData) -> str:
    settings = graph.metadata.settings
    return (
        f"{float(settings['node_threshold']):.0%} of the influence and "
        f"{float(settings['edge_threshold']):.0%} of what its edges carry"
    )


LEGEND = "".join(
    f'<span><svg width="{width}" height="12" class="n {kind}" aria-hidden="true">{shape}</svg>'
    f"{name}</span>"
    for kind, width, shape, name in (
        ("feature", 12, '<circle cx="6" cy="6" r="5"/>', "feature, larger with influence"),
        ("error", 12, '<path d="M6 1l5 5l-5 5l-5-5z"/>', "reconstruction error"),
        ("position", 12, '<rect x="2" y="2" width="8" height="8" rx="1.5"/>', "position"),
        ("plus", 22, '<path class="e plus" d="M1 6h20" stroke-width="3"/>', "raises its target"),
        ("minus", 22, '<path class="e minus" d="M1 6h20" stroke-width="3"/>', "lowers it"),
    )
)


def _map(
    graph: GraphData, shown: GraphData, selection: layout.Selection, paths: list[GraphPath]
) -> str:
    drawing = svg.draw(shown, selection, layout.place(shown, selection), paths)
    return (
        f'<section><h2>Map</h2><p class="note">{_map_note(graph, shown, selection)}</p>'
        f'<div class="legend">{LEGEND}</div><div class="scroll end">{drawing}</div></section>'
    )


def _map_note(graph: GraphData, shown: GraphData, selection: layout.Selection) -> str:
    """What the map shows and what it leaves out."""
    size, drawn = count_parts(shown), len(selection.edges)
    inner = size.get("features", 0) + size.get("errors", 0)
    visible = sum(node.kind in ("feature", "error") for node in selection.nodes.values())
    nodes = f"{visible} of {inner:,}" if visible < inner else f"All {inner:,}"
    partial = drawn < size["edges"]
    edges = f"the strongest {drawn} of {size['edges']:,} edges" if partial else "all edges"
    text = f"{nodes} features and errors and {edges} are drawn; an edge is as wide as the influence"
    text += " it carries. Point at a node to see its edges."
    if shown is not graph:
        text = f"The graph is large, so it was pruned to {_thresholds(shown)}. {text}"
    hidden = len(graph.metadata.tokens) - len(selection.positions)
    return text + (f" {hidden} tokens that these edges do not touch are left out." * bool(hidden))


def _paths(graph: GraphData, paths: list[GraphPath]) -> str:
    rows = "".join(
        f'<tr class="path" id="path{i}"><td class="number">{path.strength:.2%}</td>'
        f"<td>{_bar(path.strength / paths[0].strength)}</td><td>{_route(path, graph)}</td></tr>"
        for i, path in enumerate(paths)
    )
    head = '<tr><th class="number">influence</th><th></th><th>from token to answer</th></tr>'
    note = "The chains of edges that carry the most influence. Point at one to see it on the map."
    if is_pruned(graph):
        note += " The shares are of the pruned graph, where what was removed carries nothing."
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return _section("Strongest paths", note, table if paths else "No input reaches a target.")


def _route(path: GraphPath, graph: GraphData) -> str:
    steps = [graph.nodes[row] for row in path.nodes]
    parts = [_step(steps[0], graph)]
    for weight, node in zip(path.weights, steps[1:], strict=True):
        arrow, kind = ("→", "plus") if weight >= 0 else ("⊣", "minus")
        parts.append(f'<span class="arrow {kind}">{arrow}</span>{_step(node, graph)}')
    return f'<div class="route">{"".join(parts)}</div>'


def _step(node: Node, graph: GraphData) -> str:
    return f'<span class="step {node.kind}">{_node_html(node, graph)}</span>'


def _node_html(node: Node, graph: GraphData) -> str:
    """The node in words, a feature's label first."""
    if node.kind != "feature" or not node.label:
        return escape(describe_node(node, graph))
    place = describe_node(node._replace(label=""), graph)
    return f"<b>{escape(printable(node.label))}</b> <small>{escape(place)}</small>"


def _features(graph: GraphData) -> str:
    rows = graph.nodes.is_kind("feature").nonzero().flatten()
    order = graph.nodes.influence[rows].argsort(descending=True, stable=True)
    top = rows[order][:MAX_FEATURES].tolist()
    if not top:
        return _section("Features", "No feature is active on this prompt.", "")
    largest = max(float(graph.nodes.influence[top[0]]), 1e-30)
    head = (
        '<tr><th class="number">influence</th><th></th><th>feature</th><th class="number">'
        "activation</th><th>strongest input</th><th>strongest output</th></tr>"
    )
    body = "".join(_feature_row(graph, row, largest) for row in top)
    note = "Influence is the share of the answers that goes through a feature, over all paths."
    return _section(
        "Most influential features", note, f'<div class="scroll"><table>{head}{body}</table></div>'
    )


def _feature_row(graph: GraphData, row: int, largest: float) -> str:
    node = graph.nodes[row]
    return (
        f'<tr><td class="number">{node.influence:.2%}</td><td>{_bar(node.influence / largest)}</td>'
        f'<td>{_node_html(node, graph)}</td><td class="number">{node.activation:.3g}</td>'
        f"<td>{_neighbor(graph, graph.adjacency[row])}</td>"
        f"<td>{_neighbor(graph, graph.adjacency[:, row])}</td></tr>"
    )


def _neighbor(graph: GraphData, weights: Tensor) -> str:
    """The other end of the largest of these edges, with its sign."""
    row = int(weights.abs().argmax())
    if weights[row] == 0:
        return ""
    weight = float(weights[row])
    kind = "plus" if weight >= 0 else "minus"
    return f'{_node_html(graph.nodes[row], graph)} <span class="arrow {kind}">{weight:+.2g}</span>'


def _section(title: str, note: str, content: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{content}</section>'
