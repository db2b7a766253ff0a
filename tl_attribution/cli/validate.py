"""``tl-attribution validate``: does a graph predict the model that it explains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.cli import common

GraphFile = Annotated[
    Path,
    typer.Argument(metavar="GRAPH", help="A file that trace --out wrote.", show_default=False),
]
ModelName = Annotated[str, typer.Option("--model", help="'atlas', which ships, or a name.")]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        help="What the graph was traced with. Else neurons, or Atlas's, as the graph says.",
        show_default=False,
    ),
]
Features = Annotated[int, typer.Option("--features", min=1, help="Ablate so many features.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write all numbers as JSON.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")]


def validate(
    graph: GraphFile,
    model: ModelName = "atlas",
    dictionary: DictionaryName = None,
    features: Features = 100,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
) -> None:
    """Validate GRAPH: ablate its features in the model, and say whether it foretold the effects."""
    common.check_destinations({"json": json, "html": html})
    found = _compute(tla.load_graph(graph), model, dictionary, features, seed)
    common.write(found.to_json, json)
    common.write(found.to_html, html)
    _tell(found, [f for f in (json, html) if f])


def _compute(
    graph: tla.Graph, model_name: str, dictionary: str | None, features: int, seed: int
) -> Any:
    from tl_attribution.cli import terminal

    neurons = graph.about.dictionary == common.NEURONS
    name = dictionary or (common.NEURONS if neurons else common.usual(model_name))
    with terminal.progress() as progress:
        progress(0, 0, f"loading {model_name}")
        model, loaded = common.load(model_name, name)
        run = tla.validate
        return run(graph, model, loaded, max_features=features, seed=seed, progress=progress)


def _tell(found: Any, files: list[Path]) -> None:
    from tl_attribution.cli import terminal
    from tl_attribution.graph.paths import printable

    console = terminal.console()
    first, *rest = found.verdict
    console.print(f"\n{first}", style="bold", soft_wrap=True)
    for sentence in rest:
        console.print(f"  {sentence}", soft_wrap=True)
    for layer in found.layers:
        if layer.cosine is not None:
            console.print(
                f"  layer {layer.layer}: cosine {layer.cosine:.3f}, normalised error "
                f"{layer.error:.3f} over {layer.perturbations} perturbations"
            )
    for file in files:
        console.print(f"\nwrote {printable(str(file))}", soft_wrap=True, end="")
    console.print()
