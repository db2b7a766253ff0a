"""``tl-attribution validate``: test a graph's predictions by ablating features in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.cli import common
from tl_attribution.dictionaries.catalog import NEURONS
from tl_attribution.errors import InputError

GraphFile = Annotated[
    Path,
    typer.Argument(metavar="GRAPH", help="A file written by trace --out.", show_default=False),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="'atlas' (bundled), or a name. Default: the graph's model.",
        show_default=False,
    ),
]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        help="The dictionary the graph was traced with. Needed unless that is neurons or atlas.",
        show_default=False,
    ),
]
Features = Annotated[
    int, typer.Option("--features", min=1, help="Maximum number of features to ablate.")
]
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
    seed: common.Seed = 0,
    json: common.JsonFile = None,
    html: Html = None,
) -> None:
    """Validate GRAPH: ablate its features in the model and compare the effects with the graph's
    predictions."""
    common.check_destinations({"json": json, "html": html})
    loaded = tla.load_graph(graph)
    name = model or loaded.metadata.model
    options = common.ModelOptions(
        name, dictionary or _dictionary_of(loaded, name), reads, writes, k, trained_on
    )
    validation = _compute(loaded, options, features, seed)
    common.write(validation.to_json, json)
    common.write(validation.to_html, html)
    _show(validation, [path for path in (json, html) if path])


def _dictionary_of(graph: tla.Graph, model: str) -> str:
    """The name of the graph's dictionary. Raises InputError for a dictionary in files, whose path
    is not part of a graph."""
    if graph.metadata.dictionary == NEURONS:
        return NEURONS
    if model == common.ATLAS:
        return common.ATLAS
    raise InputError(
        f"the graph of {model} was traced with {graph.metadata.dictionary!r}, and a graph does not "
        "hold the path of its dictionary; give --dictionary"
    )


def _compute(
    graph: tla.Graph, options: common.ModelOptions, features: int, seed: int
) -> tla.Validation:
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {options.model}")
        model, dictionary = common.load(options, progress)
        return tla.validate(
            model, graph, dictionary, max_features=features, seed=seed, progress=progress
        )


def _show(validation: tla.Validation, files: list[Path]) -> None:
    from tl_attribution.cli import terminal

    console = terminal.console()
    first, *rest = validation.verdict
    console.print(f"\n{first}", style="bold", soft_wrap=True)
    for sentence in rest:
        console.print(f"  {sentence}", soft_wrap=True)
    for layer in validation.layers:
        if layer.cosine is not None:
            console.print(
                f"  layer {layer.layer}: cosine {layer.cosine:.3f}, normalized error "
                f"{layer.error:.3f} over {layer.perturbations} perturbations"
            )
    terminal.print_files(console, files)
