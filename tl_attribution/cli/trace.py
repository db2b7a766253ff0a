"""``tl-attribution trace``: compute the attribution graph of a prompt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution import choices
from tl_attribution.cli import common

Out = Annotated[Path | None, typer.Option("--out", help="Save the whole graph (safetensors).")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the pruned graph as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the pruned graph as a page.")]
Wandb = Annotated[
    str | None,
    typer.Option("--wandb", help="Log the graph to wandb: PROJECT or ENTITY/PROJECT."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="Token to explain; repeatable. Default: the likeliest tokens."),
]
AnswerText = Annotated[
    str | None, typer.Option("--answer", help="Explain this answer, each of its tokens.")
]
AnswerToken = Annotated[
    int | None,
    typer.Option("--answer-token", help="… or one by number. 0: the first, -1: the last."),
]
Generate = Annotated[
    int | None,
    typer.Option("--generate", help="Let the model answer with N tokens, and explain the last."),
]
MaxLogits = Annotated[int, typer.Option(min=1, help="Maximum number of logits to explain.")]
LogitMass = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Explain the likeliest tokens until they hold this probability."
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Expand the features that hold this share of influence."),
]
MaxFeatures = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of features to expand.")
]
NodeThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of influence that pruning keeps in nodes.")
]
EdgeThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of influence that pruning keeps in edges.")
]
EngineName = Annotated[
    choices.EngineName,
    common.choice_option(
        choices.EngineName, help="How edges are computed; autograd is the slow reference."
    ),
]


def trace(
    prompt: common.Prompt,
    model: common.ModelName = None,
    dictionary: common.DictionaryName = None,
    reads: common.Reads = None,
    writes: common.Writes = None,
    k: common.K = None,
    trained_on: common.TrainedOn = None,
    out: Out = None,
    json: Json = None,
    html: Html = None,
    wandb: Wandb = None,
    chat: common.Chat = False,
    system: common.System = None,
    target: Targets = None,
    answer: AnswerText = None,
    answer_token: AnswerToken = None,
    generate: Generate = None,
    max_logits: MaxLogits = 10,
    logit_mass: LogitMass = 0.95,
    coverage: Coverage = None,
    max_features: MaxFeatures = None,
    node_threshold: NodeThreshold = 0.8,
    edge_threshold: EdgeThreshold = 0.98,
    prefix: common.Prefix = None,
    engine: EngineName = "closed_form",
) -> None:
    """Trace PROMPT: compute its attribution graph, check it against the model, summarize it."""
    files = {"out": out, "json": json, "html": html}
    common.check_destinations(files)
    if wandb is not None:
        from tl_attribution.graph.trackers import check_run

        check_run(f"wandb:{wandb}")
    graph, seconds = _compute(
        common.ModelOptions(model, dictionary, reads, writes, k, trained_on),
        common.as_prompt(prompt, chat, system),
        targets=target or None,
        answer=answer,
        answer_token=answer_token,
        generate=generate,
        max_logits=max_logits,
        logit_mass=logit_mass,
        coverage=coverage,
        max_features=max_features,
        prefix=prefix,
        engine=engine,
    )
    pruned = graph.prune(node_threshold, edge_threshold)
    common.write(graph.save, out)
    common.write(pruned.to_json, json)
    common.write(pruned.to_html, html)
    address = None if wandb is None else tla.log_graph(graph, f"wandb:{wandb}")

    from tl_attribution.cli import terminal, trace_report

    written = [str(place) for place in (*files.values(), address) if place]
    trace_report.show(terminal.console(), graph, pruned, seconds, written)


def _compute(
    options: common.ModelOptions, prompt: str | list[dict[str, str]], **settings: Any
) -> tuple[tla.Graph, float]:
    """Load and trace; returns the graph and the seconds that tracing took."""
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {options.model or options.dictionary or common.ATLAS}")
        model, dictionary = common.load(options, progress)
        progress(0, 0, "tracing")
        attribute = tla.attribute
        start = time.perf_counter()
        graph = attribute(model, prompt, dictionary, progress=progress, **settings)
        return graph, time.perf_counter() - start
