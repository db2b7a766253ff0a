"""``tl-attribution validate``: does a graph predict the model that it explains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.cli import common
from tl_attribution.dictionaries.catalog import NEURONS
from tl_attribution.errors import InputError

GraphFile = Annotated[
    Path,
    typer.Argument(metavar="GRAPH", help="A file that trace --out wrote.", show_default=False),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", help="'atlas', which ships, or a name. Else the graph's.", show_default=False
    ),
]
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
    model: ModelName = None,
    dictionary: DictionaryName = None,
    reads: common.Reads = None,
    writes: common.Writes = None,
    k: common.K = None,
    trained_on: common.TrainedOn = None,
    features: Features = 100,
    seed: Seed = 0,
    json: Json = None,
    html: Html = None,
) -> None:
    """Validate GRAPH: ablate its features in the model, and say whether it foretold the effects."""
    common.check_destinations({"json": json, "html": html})
    held = tla.load_graph(graph)
    name = model or held.metadata.model
    chosen = common.Chosen(
        name, dictionary or _dictionary_of(held, name), reads, writes, k, trained_on
    )
    found = _compute(held, chosen, features, seed)
    common.write(found.to_json, json)
    common.write(found.to_html, html)
    _tell(found, [f for f in (json, html) if f])


def _dictionary_of(graph: tla.Graph, model: str) -> str:
    """The dictionary of a graph, as far as it says. Raises InputError for one in files, whose place
    a graph does not hold."""
    if graph.metadata.dictionary == NEURONS:
        return NEURONS
    if model == common.ATLAS:
        return common.ATLAS
    raise InputError(
        f"the graph of {model} was traced with {graph.metadata.dictionary!r}, and does not say "
        "where that lies; give --dictionary"
    )


def _compute(graph: tla.Graph, chosen: common.Chosen, features: int, seed: int) -> Any:
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {chosen.model}")
        model, loaded = common.load(chosen, progress)
        run = tla.validate
        return run(model, graph, loaded, max_features=features, seed=seed, progress=progress)


def _tell(found: Any, files: list[Path]) -> None:
    from tl_attribution.cli import terminal
    from tl_attribution.text import printable

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
