"""Graphs in wandb: the page as a panel, nodes and edges as tables, the file as an artifact."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import wandb

from tl_attribution.errors import FormatError, InputError, NotFoundError
from tl_attribution.graph import export
from tl_attribution.graph.data import GraphData
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.loading import load_graph
from tl_attribution.graph.nodes import NodeKind
from tl_attribution.plugins.wandb.runs import address, open_run
from tl_attribution.text import printable
from tl_attribution.view import page

FILE = "graph.safetensors"
"""The graph's file in its artifact."""

NODES = ["id", "kind", "layer", "position", "token", "index", "label"]
NODES += ["activation", "influence", "constant", "preactivation"]
"""Columns of the table of nodes."""

EDGES = ("source", "target", "weight")
"""Columns of the table of edges."""

ADDRESS = re.compile(r"(?:[^/:]+/)?[^/:]+/[^/:]+(?::[^/:]+)?")


def log(graph: Graph, run: Any) -> str | None:
    """Log ``graph`` to an open run, or to one of its own in ``project`` or ``entity/project``.

    The panel ``graph`` is the page; ``graph/nodes`` and ``graph/edges``, strongest first, are what
    the page is drawn from, so a large graph is pruned there. The artifact holds the whole graph.
    Returns its address, None if the run is disabled. Raises InputError if wandb cannot open the
    run, or it is finished, or wandb does not take the graph.
    """
    if not isinstance(run, str):
        return _log(graph, run)
    entity, project = address(run)
    with _finished(open_run(entity, project, None, job_type="graph")) as own:
        return _log(graph, own)


@contextmanager
def _finished(run: wandb.Run) -> Iterator[wandb.Run]:
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _log(graph: Graph, run: wandb.Run) -> str | None:
    if run.disabled:
        return None
    metadata, numbers = graph.metadata, _numbers(graph)
    facts = {name: printable(getattr(metadata, name)) for name in ("prompt", "model", "dictionary")}
    artifact = wandb.Artifact(f"graph-{export.slug(graph)}", "graph", metadata={**facts, **numbers})
    row: dict[str, Any] = {**facts, **numbers, **_tables(page.readable(graph))}
    html = wandb.Html(page.render(graph), inject=False, data_is_not_path=True)
    try:
        run.log({"graph": html} | {f"graph/{name}": value for name, value in row.items()})
        with TemporaryDirectory() as folder:
            graph.save(Path(folder) / FILE)
            artifact.add_file(str(Path(folder) / FILE), FILE, skip_cache=True, policy="mutable")
        run.log_artifact(artifact)
    except wandb.Error as error:
        raise InputError(f"wandb run {run.id!r} does not take the graph: {error}") from error
    where = (run.entity, run.project, f"{artifact.name.partition(':')[0]}:latest")
    return "/".join(part for part in where if part)


def _numbers(graph: Graph) -> dict[str, float]:
    scores = graph.scores()
    kinds: tuple[NodeKind, ...] = ("feature", "error", "logit")
    sizes = {f"n_{kind}s": int(graph.nodes.is_kind(kind).sum()) for kind in kinds}
    return {**scores._asdict(), "residual": graph.residual(), "n_edges": graph.n_edges, **sizes}


def _tables(graph: GraphData) -> dict[str, wandb.Table]:
    """Nodes and edges; text is text, with whatever is invisible escaped."""
    tokens = [printable(token) for token in graph.metadata.tokens]
    nodes, ids = [], []
    for row, node in enumerate(graph.nodes):
        measured = (float(graph.constant[row]), float(graph.preactivation[row]))
        place = (node.kind, node.layer, node.position, tokens[node.position], node.index)
        label = printable(node.label)
        nodes.append([node.id, *place, label, node.activation, node.influence, *measured])
        ids.append(node.id)
    found = graph.adjacency.nonzero()
    weights = graph.adjacency[found[:, 0], found[:, 1]]
    order = weights.abs().argsort(descending=True, stable=True)
    lines = zip(found[order].tolist(), weights[order].tolist(), strict=True)
    edges = [[ids[source], ids[target], weight] for (target, source), weight in lines]
    return {
        "nodes": wandb.Table(columns=[*NODES], data=[*nodes]),
        "edges": wandb.Table(columns=[*EDGES], data=[*edges]),
    }


def load(where: str) -> Graph:
    """The graph of the artifact ``[entity/]project/name[:version]``; only its one file is fetched.

    Raises InputError for what names no artifact, NotFoundError for one that is not there or that
    this login may not read, FormatError for one without a graph, or a file that is none.
    """
    if not ADDRESS.fullmatch(where):
        raise InputError(
            f"wandb:{where} names no artifact; give wandb:ENTITY/PROJECT/NAME:VERSION, as in "
            "wandb:my-team/my-project/graph-fact-0a1b2c3d:v0"
        )
    where = where if ":" in where else f"{where}:latest"
    artifact = _asked(where, lambda: wandb.Api().artifact(where))
    entries = _asked(where, lambda: artifact.manifest.entries)
    entry = entries.get(FILE)
    if entry is None:
        held = ", ".join(sorted(map(printable, entries))[:8]) or "nothing"
        raise FormatError(f"wandb:{where} holds no {FILE} (found: {held}); it was not log_graph's")
    if entry.ref is not None:
        raise FormatError(f"wandb:{where} only refers to a file elsewhere, which is not opened")
    with TemporaryDirectory() as folder:
        file = _asked(where, lambda: artifact.get_entry(FILE).download(folder, skip_cache=True))
        try:
            return load_graph(Path(file))
        except FormatError as error:
            raise FormatError(f"wandb:{where}: {error}") from error


def _asked(where: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # wandb raises of many families, some without a common base
        said = " ".join(str(error).split())
        raise NotFoundError(
            f"wandb does not give wandb:{where}: {said}. Is it ENTITY/PROJECT/NAME:VERSION, and "
            "were you logged in (`wandb login`) as somebody who may read it?"
        ) from error
