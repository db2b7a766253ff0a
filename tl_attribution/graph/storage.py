"""Graph files: one safetensors file with a JSON header. Nothing that can run code is ever read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_attribution.errors import FormatError, NotFoundError
from tl_attribution.files import whole_file
from tl_attribution.graph import stores
from tl_attribution.graph.graph import About, Answer, Certificate, Graph, tensors
from tl_attribution.graph.nodes import NodeTable

KEY = "tl_attribution_graph"
VERSION = 1


def save_graph(graph: Graph, path: str | Path) -> None:
    """Write ``graph``; an adjacency that is mostly zero is stored as a list of its edges."""
    stored = tensors(graph)
    adjacency = stored.pop("adjacency")
    edges = adjacency.nonzero()
    if len(edges) * 5 < adjacency.numel():
        stored["edges"] = edges.to(torch.int32)
        stored["weights"] = adjacency[edges[:, 0], edges[:, 1]]
    else:
        stored["adjacency"] = adjacency
    header = {
        "version": VERSION,
        "about": asdict(graph.about),
        "certificate": graph.certificate._asdict(),
        "labels": graph.nodes.labels,
    }
    if any(graph.nodes.groups):
        header["groups"] = graph.nodes.groups
    with whole_file(path) as temporary:
        # Copies, because safetensors refuses tensors that share memory.
        copies = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in stored.items()
        }
        save_file(copies, temporary, metadata={KEY: json.dumps(header)})


def load_graph(path: str | Path) -> Graph:
    """Read a graph written by :meth:`Graph.save`, or logged by :func:`tl_attribution.log_graph`:
    ``"wandb:entity/project/name:version"``.

    Raises NotFoundError if there is no such file or artifact, FormatError if it is a pickle
    (circuit-tracer's ``.pt``), truncated, corrupt, or not a graph.
    """
    file = Path(path)
    if isinstance(path, str) and not file.is_file():
        kept = stores.load(path)
        if kept is not None:
            return kept
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
    """Name a pickle as such. Asked only about files that are not safetensors, because the length
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
        about = header["about"]
        about["answers"] = tuple(Answer(*a) for a in about["answers"])
        about["tokens"] = tuple(about["tokens"])
        about["token_ids"] = tuple(about["token_ids"])
        certificate = Certificate(**header["certificate"])
        bounds = {k: tuple(getattr(certificate, k)) for k in ("replacement", "completeness")}
        columns = {c: stored[f"nodes.{c}"] for c in NodeTable.columns()}
        labels, groups = tuple(header["labels"]), tuple(header.get("groups", ()))
        if not all(isinstance(text, str) for text in (*labels, *groups)):
            raise TypeError("labels and groups are texts")
        nodes = NodeTable(**columns, labels=labels, groups=groups)
        return Graph(
            nodes=nodes,
            adjacency=_adjacency(stored, len(nodes)),
            about=About(**about),
            certificate=certificate._replace(**bounds),
            **{name: stored[name] for name in ("constant", "preactivation", "target_weights")},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        message = f"{file} lacks a part of a graph or holds a wrong one: {error!r}"
        raise FormatError(message) from error


def _adjacency(stored: dict[str, Tensor], n: int) -> Tensor:
    if "adjacency" in stored:
        return stored["adjacency"]
    adjacency = torch.zeros(n, n, dtype=stored["weights"].dtype)
    rows, columns = stored["edges"].long().unbind(1)
    adjacency[rows, columns] = stored["weights"]
    return adjacency
