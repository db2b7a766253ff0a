"""Load graphs from files and from experiment trackers. Nothing that can run code is ever read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_attribution.errors import FormatError, NotFoundError
from tl_attribution.graph.data import Answer, Certificate, GraphMetadata
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.nodes import NodeTable
from tl_attribution.graph.saving import KEY, VERSION
from tl_attribution.graph.trackers import load_tracked


def load_graph(path: str | Path) -> Graph:
    """Load a graph written by :meth:`Graph.save`, or logged by :func:`tl_attribution.log_graph`:
    ``"wandb:entity/project/name:version"``.

    Raises NotFoundError if there is no such file or artifact, FormatError if it is a pickle
    (circuit-tracer's ``.pt``), truncated, corrupt, or not a graph.
    """
    file = Path(path)
    if isinstance(path, str) and not file.is_file():
        tracked = load_tracked(path)
        if tracked is not None:
            return tracked
    if not file.is_file():
        raise NotFoundError(f"no graph file at {file}")
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(KEY, "null"))
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        _refuse_pickle(file)
        raise FormatError(f"{file} is truncated or corrupt: {error}") from error
    if not isinstance(header, dict):
        raise FormatError(f"{file} is a safetensors file but not a graph: no {KEY!r} in its header")
    return _assemble(file, header, stored)


def _refuse_pickle(file: Path) -> None:
    """Raise FormatError for a pickle. Only for files that are not safetensors, because the length
    with which those begin can be the same bytes."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise FormatError(
            f"{file} is a pickle, which can run code when it is read, so it is not opened. "
            "Graphs are safetensors files written by graph.save(path)"
        )


def _assemble(file: Path, header: dict, stored: dict[str, Tensor]) -> Graph:
    if header.get("version") != VERSION:
        raise FormatError(
            f"{file} is a graph file of version {header.get('version')}; this package reads "
            f"version {VERSION}: update tl-attribution"
        )
    try:
        metadata = header["metadata"]
        metadata["answers"] = tuple(Answer(*a) for a in metadata["answers"])
        metadata["tokens"] = tuple(metadata["tokens"])
        metadata["token_ids"] = tuple(metadata["token_ids"])
        certificate = Certificate(**header["certificate"])
        bounds = {k: tuple(getattr(certificate, k)) for k in ("replacement", "completeness")}
        columns = {c: stored[f"nodes.{c}"] for c in NodeTable.columns()}
        labels, groups = tuple(header["labels"]), tuple(header.get("groups", ()))
        if not all(isinstance(text, str) for text in (*labels, *groups)):
            raise TypeError("expected labels and groups of text")
        nodes = NodeTable(**columns, labels=labels, groups=groups)
        return Graph(
            nodes=nodes,
            adjacency=_adjacency(stored, len(nodes)),
            metadata=GraphMetadata(**metadata),
            certificate=certificate._replace(**bounds),
            **{name: stored[name] for name in ("constant", "preactivation", "target_weights")},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        message = f"a part of the graph in {file} is missing or wrong: {error!r}"
        raise FormatError(message) from error


def _adjacency(stored: dict[str, Tensor], n: int) -> Tensor:
    if "adjacency" in stored:
        return stored["adjacency"]
    adjacency = torch.zeros(n, n, dtype=stored["weights"].dtype)
    rows, columns = stored["edges"].long().unbind(1)
    adjacency[rows, columns] = stored["weights"]
    return adjacency
