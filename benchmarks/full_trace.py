"""A whole graph, every active feature expanded, by tl-attribution and by circuit-tracer 0.5.0 on
the same weights: time, memory, share of the machine's matmul speed, and whether the edges agree.

    python benchmarks/full_trace.py --peer-python .venv-circuit-tracer/bin/python

See peer_circuit_tracer.py for how to make the peer's environment; without it only ours runs. The
times are those of the attribution call, after imports and loading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import FULL, SMALL, THREADS, make, show
from safetensors.torch import load_file
from torch import Tensor

from tl_attribution.graph import influence
from tl_attribution.graph.nodes import KINDS

HERE = Path(__file__).parent
KEY = ("kind", "layer", "position", "index")
FEATURE, ERROR, TOKEN, POSITION, LOGIT = range(len(KINDS))
THRESHOLDS = (0.8, 0.98)


def call(python: str, script: str, folder: Path, *options: str) -> None:
    """Run one side. Raises CalledProcessError if it fails."""
    subprocess.run([python, str(HERE / script), str(folder), *options], check=True)


def read(folder: Path, side: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A side's report and graph."""
    report = json.loads((folder / f"{side}.json").read_text())
    return report, load_file(folder / f"{side}.safetensors")


def matching_rows(ours: dict[str, Tensor], peer: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of our graph and of the peer's that are the same node, in our order."""
    keys = [list(map(tuple, torch.stack([g[c] for c in KEY], 1).tolist())) for g in (ours, peer)]
    rows = {key: row for row, key in enumerate(keys[1])}
    pairs = [(row, rows[key]) for row, key in enumerate(keys[0]) if key in rows]
    our_rows, peer_rows = torch.tensor(pairs).T
    return our_rows, peer_rows


def scores(kind: Tensor, adjacency: Tensor, weights: Tensor) -> influence.Scores:
    """Replacement and completeness of a graph without position nodes."""
    return influence.scores(adjacency, weights, kind == TOKEN, kind == ERROR)


def prune(kind: Tensor, adjacency: Tensor, weights: Tensor) -> influence.Pruned:
    """Prune a graph with our pruning."""
    always = (kind == TOKEN) | (kind == LOGIT)
    return influence.prune(adjacency, weights, kind == FEATURE, always, *THRESHOLDS)


def compare(ours: dict[str, Tensor], peer: dict[str, Tensor]) -> dict[str, Any]:
    """Differences between the edges of the two graphs, and the residual of the peer's."""
    our_rows, peer_rows = matching_rows(ours, peer)
    kind = ours["kind"][our_rows]
    our_adjacency = ours["adjacency"][our_rows][:, our_rows]
    peer_adjacency = peer["adjacency"][peer_rows][:, peer_rows]
    targets = (kind == FEATURE) | (kind == LOGIT)
    measured = ours["preactivation"][our_rows][targets]
    missed = (peer["adjacency"][peer_rows][targets].sum(1) - measured).abs()
    return {
        "features, ours and the peer's": [int((g["kind"] == FEATURE).sum()) for g in (ours, peer)],
        "features that match": int((kind == FEATURE).sum()),
        "largest difference of edges / largest edge": largest(our_adjacency - peer_adjacency)
        / largest(peer_adjacency),
        "peer: in-edges miss pre-activations, largest / largest": largest(missed)
        / largest(measured),
        "… median over targets, relative to its own": float((missed / measured.abs()).median()),
    }


def compare_pruned(ours: dict[str, Tensor], peer: dict[str, Tensor]) -> dict[str, Any]:
    """Whether both sides prune the peer's graph alike, and our graph like the peer's."""
    our_rows, peer_rows = matching_rows(ours, peer)
    kind, weights = ours["kind"][our_rows], ours["target_weights"][our_rows]
    our_adjacency = ours["adjacency"][our_rows][:, our_rows]
    probabilities = torch.zeros(len(peer["kind"]))
    probabilities[peer["kind"] == LOGIT] = peer["probabilities"]
    kept = prune(peer["kind"], peer["adjacency"], probabilities)
    edges = peer["edge_mask"] & (peer["adjacency"] != 0)
    kept_of_ours = prune(kind, our_adjacency, weights)
    return {
        "peer keeps nodes, edges": [int(kept.nodes.sum()), int(kept.edges.sum())],
        "our pruning of the peer's graph: nodes that differ": count_differences(
            kept.nodes, peer["node_mask"]
        ),
        "our pruning of the peer's graph: edges that differ": count_differences(kept.edges, edges),
        "our pruning of ours without positions: nodes that differ": count_differences(
            kept_of_ours.nodes, kept.nodes[peer_rows]
        ),
        "our pruning of ours without positions: edges that differ": count_differences(
            kept_of_ours.edges, kept.edges[peer_rows][:, peer_rows]
        ),
        "scores of ours without positions": scores(kind, our_adjacency, weights),
    }


def largest(values: Tensor) -> float:
    """The largest absolute value."""
    return float(values.abs().max())


def count_differences(first: Tensor, second: Tensor) -> int:
    """Number of entries in which two masks differ."""
    return int((first != second).sum())


def describe_ours(report: dict[str, Any], graph: dict[str, Tensor]) -> dict[str, Any]:
    """Our side's numbers."""
    speeds = report["matmul_flops"]
    around = [(before + after) / 2 for before, after in pairwise(speeds)]
    shares = [report["flop"] / t / s for t, s in zip(report["seconds"], around, strict=True)]
    return {
        "active features": int((graph["kind"] == FEATURE).sum()),
        "nodes": len(graph["kind"]),
        "ours: seconds, each run": report["seconds"],
        "ours: peak memory above the start, GB": report["gigabytes"],
        "ours: seconds to prune": report["prune_seconds"],
        "ours: residual": report["residual"],
        "ours: scores": report["scores"],
        "operations, GFLOP": report["flop"] / 1e9,
        "machine's fp32 matmul, GFLOP/s, before and after each run": [s / 1e9 for s in speeds],
        "share of it, each run": shares,
    }


def describe_peer(report: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The peer's numbers beside ours."""
    seconds = statistics.median(ours["seconds"])
    return {
        f"circuit-tracer {report['version']}: seconds": report["seconds"],
        "circuit-tracer: peak memory above the start, GB": report["gigabytes"],
        "circuit-tracer: seconds to prune": report["prune_seconds"],
        "circuit-tracer: scores": report["scores"],
        "times faster": report["seconds"] / seconds,
        "times less memory": report["gigabytes"] / max(ours["gigabytes"], 1e-9),
    }


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the weights, run both sides one after the other, compare."""
    make(SMALL if arguments.small else FULL, folder)
    call(sys.executable, "trace_ours.py", folder, "--repeat", str(arguments.repeat))
    ours, graph = read(folder, "ours")
    show("tl-attribution", describe_ours(ours, graph))
    if arguments.peer_python is None:
        return
    call(arguments.peer_python, "peer_circuit_tracer.py", folder)
    peer, peer_graph = read(folder, "peer")
    show("circuit-tracer", describe_peer(peer, ours))
    show("the two graphs", compare(graph, peer_graph))
    show(f"pruned at {THRESHOLDS}", compare_pruned(graph, peer_graph))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="circuit-tracer's interpreter; without it, ours only")
    parser.add_argument("--repeat", type=int, default=3, help="how often ours runs")
    parser.add_argument("--small", action="store_true", help="a shape that takes a second")
    parser.add_argument("--folder", type=Path, help="keep the files here (default: thrown away)")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        run(arguments.folder, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments)


if __name__ == "__main__":
    main()
