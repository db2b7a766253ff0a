"""A graph, its nodes and its paths in plain text."""

from __future__ import annotations

from tl_attribution.graph.data import GraphData, is_pruned, is_subgraph
from tl_attribution.graph.nodes import KINDS, Node
from tl_attribution.graph.paths import GraphPath, strongest_paths
from tl_attribution.text import printable, quote


def describe_node(node: Node, graph: GraphData) -> str:
    """Describe a node in a few words: ``" Dallas" (5)``, ``layer 1 #212 at " state" (4)``, with the
    feature's label, if it has one, at the end. A logit whose index is not a token of the vocabulary
    (a difference, a direction) is its label. The name of its supernode follows in brackets."""
    group = f" [{printable(node.group)}]" if node.group else ""
    return _describe(node, graph) + group


def _describe(node: Node, graph: GraphData) -> str:
    place = f"{quote(graph.metadata.tokens[node.position])} ({node.position})"
    match node.kind:
        case "token":
            return place
        case "position":
            return f"position {node.position}"
        case "error":
            return f"error layer {node.layer} at {place}"
        case "logit":
            return answer_label(node, graph)
    label = f": {printable(node.label)}" if node.label else ""
    return f"layer {node.layer} #{node.index} at {place}{label}"


def answer_label(node: Node, graph: GraphData) -> str:
    """Return a logit node's token in quotes, or its label as it is if it stands for something else
    than a token; with the position where it is predicted if that is not the last."""
    is_token = node.index < graph.metadata.d_vocab
    text = quote(node.label) if is_token else printable(node.label)
    last = node.position == len(graph.metadata.tokens) - 1
    return text if last else f"{text} after ({node.position})"


def describe_path(path: GraphPath, graph: GraphData) -> str:
    """Describe a path in words, source first; ``⊣`` in place of ``→`` marks a negative edge."""
    words = [describe_node(graph.nodes[row], graph) for row in path.nodes]
    arrows = ["→" if weight >= 0 else "⊣" for weight in path.weights]
    rest = (f" {arrow} {word}" for arrow, word in zip(arrows, words[1:], strict=True))
    return words[0] + "".join(rest)


def count_parts(graph: GraphData) -> dict[str, int]:
    """Count the nodes of each kind that occurs, and the edges: ``{"features": 212, ...}``."""
    counts = {f"{kind}s": int(graph.nodes.is_kind(kind).sum()) for kind in KINDS}
    return {name: n for name, n in counts.items() if n} | {"edges": graph.n_edges}


def subgraph_text(graph: GraphData) -> str:
    """Return what a subgraph is a part of, in words."""
    whole = graph.metadata.settings["subgraph_of"]
    return f"A part, chosen by hand, of a graph of {whole:,} nodes"


def summary_rows(graph: GraphData) -> list[tuple[str, str]]:
    """Return the model, the dictionary, the size and the scores as (name, value) pairs of text."""
    scores, metadata, certificate = graph.scores(), graph.metadata, graph.certificate
    size = (
        f"{n:,} {name.rstrip('s') if n == 1 else name}" for name, n in count_parts(graph).items()
    )
    rows = [
        ("model", printable(metadata.model)),
        ("dictionary", printable(metadata.dictionary)),
        ("graph", ", ".join(size)),
        ("replacement", f"{scores.replacement:.3f}"),
        ("completeness", f"{scores.completeness:.3f}"),
        ("residual", f"{graph.residual():.1e}"),
    ]
    if is_pruned(graph):
        nodes, edges = (metadata.settings[f"{kind}_threshold"] for kind in ("node", "edge"))
        kept = f"{nodes:g} of influence, {edges:g} of edges; the scores are of what is left"
        rows.insert(3, ("pruned to", kept))
    if is_subgraph(graph):
        rows.insert(3, ("subgraph", f"{subgraph_text(graph)}; the scores are of what is left"))
    if metadata.answer:
        rows.insert(2, ("explained", quote(metadata.answer)))
    if certificate.expanded < certificate.active:
        rows.append(("partial", certificate_text(graph)))
    return rows


def certificate_text(graph: GraphData) -> str:
    """Return what a partial graph leaves out and the bounds of the whole graph's scores as text."""
    c = graph.certificate
    return (
        f"{c.expanded:,} of {c.active:,} active features expanded; "
        f"{c.unexpanded_influence:.1%} of the influence goes to the others; the whole graph has "
        f"replacement {c.replacement[0]:.3f} to {c.replacement[1]:.3f}, "
        f"completeness {c.completeness[0]:.3f} to {c.completeness[1]:.3f}"
    )


def summary(graph: GraphData, n_paths: int = 5) -> str:
    """Summarize the graph: prompt, answers, size, scores, residual, strongest paths."""
    tokens = " ".join(quote(token) for token in graph.metadata.tokens)
    answers = "   ".join(f"{quote(a.token)} {a.probability:.1%}" for a in graph.metadata.answers)
    lines = [("prompt", printable(graph.metadata.prompt)), ("tokens", tokens), ("answers", answers)]
    text = [f"{name:<13}{value}" for name, value in lines + summary_rows(graph)]
    paths = [
        f"  {path.strength:6.2%}  {describe_path(path, graph)}"
        for path in strongest_paths(graph, n_paths)
    ]
    return "\n".join([*text, "strongest paths", *(paths or ["  none: no input reaches a target"])])
