"""Our side of full_trace.py: reads a folder made by ``common.make``, writes ours.safetensors and
ours.json into it. Runs in a separate process, so that its memory can be measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import (
    THREADS,
    Measured,
    count_flops,
    fill,
    matmul_speed,
    new_model,
    read_shape,
    read_transcoder,
)
from safetensors.torch import load_file, save_file

import tl_attribution as tla
from tl_attribution.dictionaries.activations import ReLU
from tl_attribution.dictionaries.transcoder import LayerWeights
from tl_attribution.graph.graph import Graph


def load(folder: Path) -> tuple[Any, tla.Dictionary, torch.Tensor]:
    """Model, dictionary and prompt."""
    model = new_model(read_shape(folder))
    fill(model, folder)
    layers = [LayerWeights(**weights) for weights in read_transcoder(folder)]
    dictionary = tla.CrossLayerTranscoder(
        layers, ReLU(), feature_input_hook="hook_resid_mid", feature_output_hook="hook_mlp_out"
    )
    return model, dictionary, load_file(folder / "prompt.safetensors")["tokens"]


def run(folder: Path, repeat: int) -> None:
    """Trace ``repeat`` times, once more to count operations, and write the last graph."""
    model, dictionary, tokens = load(folder)

    def trace() -> Graph:
        return tla.attribute(model, tokens, dictionary, prefix=1, max_logits=10)

    runs, speeds = [], [matmul_speed()]
    for _ in range(repeat):
        graph = None  # a graph that is still held would be memory that the next one reuses
        with Measured() as measured:
            graph = trace()
        runs.append(measured)
        speeds.append(matmul_speed())
    with Measured() as pruning:
        graph.prune()
    report = {
        "seconds": [m.seconds for m in runs],
        "gigabytes": runs[0].gigabytes,
        "matmul_flops": speeds,
        "prune_seconds": pruning.seconds,
        "residual": graph.residual(),
        "scores": graph.scores(),
    }
    nodes = graph.nodes
    tensors = {name: getattr(nodes, name) for name in ("kind", "layer", "position", "index")}
    for name in ("adjacency", "preactivation", "target_weights"):
        tensors[name] = getattr(graph, name)
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "ours.safetensors")
    del graph, tensors
    report["flop"] = count_flops(trace)
    (folder / "ours.json").write_text(json.dumps(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    run(arguments.folder, arguments.repeat)
