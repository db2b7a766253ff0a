"""Graphs for other tools: the JSON of Neuronpedia and circuit-tracer's viewer, and networkx."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_attribution.errors import InputError
from tl_attribution.files import write_whole
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.nodes import Node

if TYPE_CHECKING:
    import networkx

FEATURE_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "position": "embedding",
    "logit": "logit",
}
"""What the field's files call each kind of node."""

SCHEMA_VERSION = 1
"""Version in which ``feature`` holds layer and index in one number (see :func:`pair`)."""

SETTINGS = {
    "max_logits": "max_n_logits",
    "logit_mass": "desired_logit_prob",
    "max_features": "max_feature_nodes",
}
"""Our names of settings that have a name in the schema, and that name."""


def save_json(graph: Graph, path: str | Path) -> None:
    """Write :func:`to_json_dict` to ``path``, whole or not at all. The same graph gives the same
    bytes.

    Raises InputError if a number in the graph is NaN or infinite, which JSON cannot hold.
    """
    try:
        text = json.dumps(to_json_dict(graph), allow_nan=False)
    except ValueError as error:
        raise InputError(f"the graph has a NaN or infinite number, JSON cannot: {error}") from error
    write_whole(path, text.encode())


def to_json_dict(graph: Graph) -> dict[str, Any]:
    """The graph in the form that Neuronpedia accepts, as dictionaries and lists.

    Raises InputError if two nodes have the same id: links could not tell them apart.
    """
    nodes = list(graph.nodes)
    if len({node.id for node in nodes}) < len(nodes):
        raise InputError("two nodes of this graph have the same kind, layer, position and index")
    return {
        "metadata": _metadata(graph, nodes),
        "qParams": {
            "pinnedIds": _pinned(graph, nodes),
            "supernodes": [
                [name, *(nodes[row].id for row in rows)] for name, rows in graph.groups.items()
            ],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": _nodes(graph, nodes),
        "links": [
            {"source": nodes[source].id, "target": nodes[target].id, "weight": weight}
            for target, source, weight in _edges(graph)
        ],
    }


def _pinned(graph: Graph, nodes: list[Node]) -> list[str]:
    """The viewers draw supernodes among the pinned nodes: their members, and what is explained."""
    if not graph.groups:
        return []
    weights = graph.target_weights.tolist()
    return [n.id for n, weight in zip(nodes, weights, strict=True) if n.group or weight]


def to_networkx(graph: Graph) -> networkx.DiGraph:
    """Nodes by id with the columns of :class:`Node`, ``constant`` and ``preactivation`` as
    attributes; edges from source to target with ``weight``."""
    import networkx

    result = networkx.DiGraph(
        prompt=graph.about.prompt, model=graph.about.model, dictionary=graph.about.dictionary
    )
    ids = []
    left_out, measured = graph.constant.tolist(), graph.preactivation.tolist()
    for node, constant, preactivation in zip(graph.nodes, left_out, measured, strict=True):
        columns = {k: v for k, v in node._asdict().items() if k != "id"}
        result.add_node(node.id, **columns, constant=constant, preactivation=preactivation)
        ids.append(node.id)
    for target, source, weight in _edges(graph):
        result.add_edge(ids[source], ids[target], weight=weight)
    return result


def pair(layer: int, index: int) -> int:
    """Layer and index as one number (Cantor's pairing), which Neuronpedia takes apart again.

    >>> pair(1, 2)
    8
    """
    return (layer + index) * (layer + index + 1) // 2 + index


def slug(graph: Graph) -> str:
    """A file name and address for the graph: the prompt's letters and digits, and a digest that
    tells apart prompts, models and dictionaries that look the same without the rest."""
    about = graph.about
    words = re.sub(r"[^a-z0-9]+", "-", about.prompt.lower())[:50].strip("-")
    whole = json.dumps([about.prompt, about.model, about.dictionary])
    return f"{words or 'prompt'}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _edges(graph: Graph) -> list[tuple[int, int, float]]:
    """Every edge as (target row, source row, weight)."""
    found = graph.adjacency.nonzero()
    weights = graph.adjacency[found[:, 0], found[:, 1]].tolist()
    return [(t, s, w) for (t, s), w in zip(found.tolist(), weights, strict=True)]


def _nodes(graph: Graph, nodes: list[Node]) -> list[dict[str, Any]]:
    weights = graph.target_weights.tolist()
    logits = [row for row, node in enumerate(nodes) if node.kind == "logit"]
    first = max(logits, key=lambda row: weights[row], default=-1)
    return [
        {
            "node_id": node.id,
            "feature": _feature(node),
            "layer": _layer(node),
            "ctx_idx": node.position,
            "feature_type": FEATURE_TYPES[node.kind],
            "token_prob": weight if node.kind == "logit" else 0.0,
            "is_target_logit": row == first,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": node.id,
            "clerp": _clerp(node, weight),
            "influence": None if node.kind == "logit" else float(cumulative),
            "activation": node.activation if node.kind == "feature" else None,
        }
        for row, (node, weight, cumulative) in enumerate(
            zip(nodes, weights, graph.nodes.cumulative.tolist(), strict=True)
        )
    ]


def _feature(node: Node) -> int:
    """The viewers tell nodes of one layer and position apart by this number."""
    if node.kind == "feature":
        return pair(node.layer, node.index)
    return {"token": node.position, "logit": node.index}.get(node.kind, -1)


def _layer(node: Node) -> str:
    if node.kind in ("token", "position"):
        return "E"
    return str(node.layer + 1 if node.kind == "logit" else node.layer)


def _clerp(node: Node, weight: float) -> str:
    """The label; viewers read a logit's token and probability back out of it."""
    if node.kind == "logit":
        return f'Output "{node.label}" (p={weight:.3f})'
    return node.label


def _metadata(graph: Graph, nodes: list[Node]) -> dict[str, Any]:
    about = graph.about
    thresholds = {
        k: about.settings[k] for k in ("node_threshold", "edge_threshold") if k in about.settings
    }
    known = {theirs: about.settings.get(ours) for ours, theirs in SETTINGS.items()}
    return {
        "slug": slug(graph),
        "scan": about.model,
        "transcoder_list": [],
        "prompt_tokens": list(about.tokens),
        "prompt": about.prompt,
        **{k: v for k, v in thresholds.items() if k == "node_threshold"},
        "schema_version": SCHEMA_VERSION,
        "info": {"generator": {"name": "tl-attribution", "version": _version()}},
        "generation_settings": {k: v for k, v in known.items() if v is not None},
        "pruning_settings": thresholds,
        "tl_attribution": _own_facts(graph, nodes),
    }


def _own_facts(graph: Graph, nodes: list[Node]) -> dict[str, Any]:
    """What the field's form has no place for: with it a reader can check every in-edge sum."""
    targets = graph.is_target.nonzero().flatten().tolist()
    weighted = graph.target_weights.nonzero().flatten().tolist()
    return {
        "dictionary": graph.about.dictionary,
        "prefix": graph.about.prefix,
        "answers": [answer._asdict() for answer in graph.about.answers],
        "settings": graph.about.settings,
        "residual": graph.residual(),
        "scores": graph.scores()._asdict(),
        "certificate": graph.certificate._asdict(),
        "constants": {nodes[row].id: float(graph.constant[row]) for row in targets},
        "preactivations": {nodes[row].id: float(graph.preactivation[row]) for row in targets},
        "target_weights": {nodes[row].id: float(graph.target_weights[row]) for row in weighted},
    }


def _version() -> str:
    try:
        return metadata.version("tl-attribution")
    except metadata.PackageNotFoundError:
        return "source"
