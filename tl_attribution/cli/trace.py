"""``tl-attribution trace``: from a prompt to a verified attribution graph."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.cli import common


class Engine(str, Enum):
    """How edges are computed."""

    fast = "fast"
    autograd = "autograd"


Prompt = Annotated[str, typer.Argument(help="The text to explain.", show_default=False)]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="'atlas', which ships, or a name. Else the dictionary's, or Atlas.",
        show_default=False,
    ),
]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        help="A name (see list), a path, org/name on the Hub, or 'neurons': the model's own. Else "
        "Atlas's, or neurons.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Save the whole graph (safetensors).")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the pruned graph as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the pruned graph as a page.")]
Wandb = Annotated[
    str | None,
    typer.Option("--wandb", help="Log the graph to wandb: PROJECT or ENTITY/PROJECT."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="Token to explain; repeat for more. Else the likely ones."),
]
MaxLogits = Annotated[int, typer.Option(min=1, help="Explain at most so many likely tokens.")]
LogitMass = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="… and no more than hold this probability.")
]
Coverage = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Expand the features holding this share of influence."),
]
MaxFeatures = Annotated[int | None, typer.Option(min=1, help="Expand at most so many features.")]
NodeThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of influence that pruning keeps in nodes.")
]
EdgeThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of influence that pruning keeps in edges.")
]
Prefix = Annotated[
    int | None,
    typer.Option(min=0, help="Leading tokens that every prompt shares. Else the BOS token."),
]
EngineName = Annotated[Engine, typer.Option(help="autograd is the slow reference.")]


def trace(
    prompt: Prompt,
    model: ModelName = None,
    dictionary: DictionaryName = None,
    out: Out = None,
    json: Json = None,
    html: Html = None,
    wandb: Wandb = None,
    target: Targets = None,
    max_logits: MaxLogits = 10,
    logit_mass: LogitMass = 0.95,
    coverage: Coverage = None,
    max_features: MaxFeatures = None,
    node_threshold: NodeThreshold = 0.8,
    edge_threshold: EdgeThreshold = 0.98,
    prefix: Prefix = None,
    engine: EngineName = Engine.fast,
) -> None:
    """Trace PROMPT: compute its attribution graph, check it against the model, and tell it."""
    files = {"out": out, "json": json, "html": html}
    common.check_destinations(files)
    if wandb is not None:
        from tl_attribution.graph import stores

        stores.check(f"wandb:{wandb}")
    graph, seconds = _compute(
        model,
        dictionary,
        prompt,
        targets=target or None,
        max_logits=max_logits,
        logit_mass=logit_mass,
        coverage=coverage,
        max_features=max_features,
        prefix=prefix,
        engine=engine.value,
    )
    pruned = graph.prune(node_threshold, edge_threshold)
    common.write(graph.save, out)
    common.write(pruned.to_json, json)
    common.write(pruned.to_html, html)
    address = None if wandb is None else tla.log_graph(graph, f"wandb:{wandb}")

    from tl_attribution.cli import report, terminal

    written = [str(place) for place in (*files.values(), address) if place]
    report.show(terminal.console(), graph, pruned, seconds, written)


def _compute(
    model_name: str | None, dictionary_name: str | None, prompt: str, **settings: Any
) -> tuple[tla.Graph, float]:
    """The graph and the seconds it took once everything was loaded."""
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {model_name or dictionary_name or common.ATLAS}")
        model, dictionary = common.load(model_name, dictionary_name, progress)
        progress(0, 0, "tracing")
        attribute = tla.attribute
        start = time.perf_counter()
        graph = attribute(model, prompt, dictionary, progress=progress, **settings)
        return graph, time.perf_counter() - start
