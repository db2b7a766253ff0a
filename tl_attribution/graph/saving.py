"""Write graph files: one safetensors file with a JSON header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from tl_attribution.files import whole_file
from tl_attribution.graph.data import GraphData

KEY = "tl_attribution_graph"
"""Key of the JSON header in the file's metadata."""

VERSION = 1
"""Version of the format, which a reader requires."""


def save_graph(graph: GraphData, path: str | Path) -> None:
    """Write ``graph``; an adjacency that is mostly zero is stored as a list of its edges."""
    stored = graph.tensors()
    adjacency = stored.pop("adjacency")
    edges = adjacency.nonzero()
    if len(edges) * 5 < adjacency.numel():
        stored["edges"] = edges.to(torch.int32)
        stored["weights"] = adjacency[edges[:, 0], edges[:, 1]]
    else:
        stored["adjacency"] = adjacency
    header = {
        "version": VERSION,
        "metadata": asdict(graph.metadata),
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
