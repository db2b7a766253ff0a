"""Figure of the graph of a two-hop question: the entity in the prompt (a city), the inner step (its
state or country), and the answer."""

from __future__ import annotations

from collections.abc import Callable

import figures
from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor

import tl_attribution as tla

Step = Bool[Tensor, "position layer feature"]
"""The features of the inner step, at the city (the last token but one) and at the end."""
Test = Callable[[tla.Node], bool]


def is_step_feature(graph: tla.Graph, step: Step) -> Test:
    """Whether a node is a feature of the inner step."""
    first = len(graph.metadata.tokens) - 2

    def test(node: tla.Node) -> bool:
        if node.kind != "feature" or node.position < first:
            return False
        return bool(step[node.position - first, node.layer, node.index])

    return test


def group_by_step(graph: tla.Graph, step: Step) -> tla.Graph:
    """Group the graph into supernodes: the city, the step and all other features at both positions,
    the features before the city, and the first answer."""
    city, of_step = len(graph.metadata.tokens) - 2, is_step_feature(graph, step)
    answer = next(node.id for node in graph.nodes if node.kind == "logit")

    def features(position: int, inside: bool) -> Test:
        return lambda n: n.kind == "feature" and n.position == position and of_step(n) == inside

    return graph.group(
        {
            "city": lambda n: n.kind == "token" and n.position == city,
            "before": lambda n: n.kind == "feature" and n.position < city,
            "step, city": features(city, True),
            "others, city": features(city, False),
            "step, end": features(city + 1, True),
            "others, end": features(city + 1, False),
            "answer": lambda n: n.id == answer,
        }
    )


def draw_graph(graph: tla.Graph, name: str) -> Figure:
    """Draw a grouped graph. ``name``: of the inner step."""
    answer = next(node.label.strip() for node in graph.nodes if node.kind == "logit")
    city = graph.metadata.tokens[-2].strip()
    boxes = {
        "city": figures.Box(1.5, 0, f"“{city}”", figures.GRAY),
        "before": figures.Box(0, 0.9, "words before\nthe city", figures.PURPLE),
        "step, city": figures.Box(1, 1, f"{name}\n(at the city)", figures.BLUE),
        "others, city": figures.Box(2.3, 0.9, "other features\nat the city", figures.GRAY),
        "step, end": figures.Box(1.15, 2.05, f"{name}\n(at the end)", figures.BLUE),
        "others, end": figures.Box(0.1, 2.1, "other features\nat the end", figures.GRAY),
        "answer": figures.Box(0.75, 3, f"“{answer}”", figures.GREEN),
    }
    figure, (axes,) = figures.figure(7.5, 5.4)
    figures.circuit(axes, graph, boxes)
    return figure


def share_of_paths(graph: tla.Graph, step: Step, n: int = 400) -> float:
    """Share of the strength of the ``n`` strongest paths from the city to the first answer that
    passes a feature of the step."""
    graph_by_step, of_step = group_by_step(graph, step), is_step_feature(graph, step)
    paths = graph_by_step.paths("city", "answer", n=n)
    via = [any(of_step(graph_by_step.nodes[row]) for row in path.nodes) for path in paths]
    strength = [path.strength for path in paths]
    return float(sum(s for s, v in zip(strength, via, strict=True) if v) / sum(strength))
