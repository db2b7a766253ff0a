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
from tl_attribution.plugins.wandb.runs import open_run, parse_project
from tl_attribution.text import printable
from tl_attribution.view import page

FILE = "graph.safetensors"
"""Name of the graph's file in its artifact."""

NODES = ["id", "kind", "layer", "position", "token", "index", "label"]
NODES += ["activation", "influence", "constant", "preactivation"]
"""Columns of the node table."""

EDGES = ("source", "target", "weight")
"""Columns of the edge table."""

ADDRESS = re.compile(r"(?:[^/:]+/)?[^/:]+/[^/:]+(?::[^/:]+)?")


def log(graph: Graph, run: Any) -> str | None:
    """Log ``graph`` to an open run, or to a new one in ``project`` or ``entity/project``.

    The panel ``graph`` is the page; the tables ``graph/nodes`` and ``graph/edges``, strongest
    first, hold the graph of the page, which is pruned if the graph is large. The artifact holds the
    whole graph. Returns its address, None if the run is disabled. Raises InputError if the run
    cannot be opened or is finished, or if wandb does not take the graph.
    """
    if not isinstance(run, str):
        return _log(graph, run)
    entity, project = parse_project(run)
    with _finish(open_run(entity, project, None, job_type="graph")) as wandb_run:
        return _log(graph, wandb_run)


@contextmanager
def _finish(run: wandb.Run) -> Iterator[wandb.Run]:
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
    parts = (run.entity, run.project, f"{artifact.name.partition(':')[0]}:latest")
    return "/".join(part for part in parts if part)


def _numbers(graph: Graph) -> dict[str, float]:
    scores = graph.scores()
    kinds: tuple[NodeKind, ...] = ("feature", "error", "logit")
    sizes = {f"n_{kind}s": int(graph.nodes.is_kind(kind).sum()) for kind in kinds}
    return {**scores._asdict(), "residual": graph.residual(), "n_edges": graph.n_edges, **sizes}


def _tables(graph: GraphData) -> dict[str, wandb.Table]:
    """Tables of nodes and edges; invisible characters in text are escaped."""
    tokens = [printable(token) for token in graph.metadata.tokens]
    nodes, ids = [], []
    for row, node in enumerate(graph.nodes):
        measured = (float(graph.constant[row]), float(graph.preactivation[row]))
        place = (node.kind, node.layer, node.position, tokens[node.position], node.index)
        label = printable(node.label)
        nodes.append([node.id, *place, label, node.activation, node.influence, *measured])
        ids.append(node.id)
    edges = graph.adjacency.nonzero()
    weights = graph.adjacency[edges[:, 0], edges[:, 1]]
    order = weights.abs().argsort(descending=True, stable=True)
    pairs = zip(edges[order].tolist(), weights[order].tolist(), strict=True)
    rows = [[ids[source], ids[target], weight] for (target, source), weight in pairs]
    return {
        "nodes": wandb.Table(columns=[*NODES], data=[*nodes]),
        "edges": wandb.Table(columns=[*EDGES], data=[*rows]),
    }


def load(address: str) -> Graph:
    """Load the graph of the artifact ``[entity/]project/name[:version]``; only its file is fetched.

    Raises InputError for another form of address, NotFoundError for an artifact that does not exist
    or that this login may not read, FormatError for an artifact without a graph.
    """
    if not ADDRESS.fullmatch(address):
        raise InputError(
            f"wandb:{address} is not an artifact; give wandb:ENTITY/PROJECT/NAME:VERSION, as in "
            "wandb:my-team/my-project/graph-fact-0a1b2c3d:v0"
        )
    address = address if ":" in address else f"{address}:latest"
    artifact = _request(address, lambda: wandb.Api().artifact(address))
    entries = _request(address, lambda: artifact.manifest.entries)
    entry = entries.get(FILE)
    if entry is None:
        names = ", ".join(sorted(map(printable, entries))[:8]) or "nothing"
        raise FormatError(
            f"wandb:{address} holds no {FILE} (found: {names}); give an artifact of log_graph"
        )
    if entry.ref is not None:
        raise FormatError(f"wandb:{address} refers to a file outside wandb, which is not opened")
    with TemporaryDirectory() as folder:
        file = _request(address, lambda: artifact.get_entry(FILE).download(folder, skip_cache=True))
        try:
            return load_graph(Path(file))
        except FormatError as error:
            raise FormatError(f"wandb:{address}: {error}") from error


def _request(address: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # wandb's errors have no common base class
        message = " ".join(str(error).split())
        raise NotFoundError(
            f"wandb does not give wandb:{address}: {message}. Expected "
            "ENTITY/PROJECT/NAME:VERSION, and a login (`wandb login`) that may read it"
        ) from error
