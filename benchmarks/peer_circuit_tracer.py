"""circuit-tracer's side of full_trace.py: reads a folder made by ``common.make``, writes
peer.safetensors and peer.json into it. Runs in circuit-tracer's own environment:

    python -m venv .venv-circuit-tracer
    .venv-circuit-tracer/bin/pip install circuit-tracer==0.5.0 nnsight==0.6.0
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import torch
from circuit_tracer import attribute
from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from common import THREADS, Measured, fill, model_config, read_shape, read_transcoder
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

KINDS = ("feature", "error", "token", "position", "logit")
"""Node kinds as tl_attribution numbers them."""
KEY = ("kind", "layer", "position", "index")


def tokenizer(d_vocab: int) -> PreTrainedTokenizerFast:
    """Words without meaning; token 0 is BOS."""
    vocabulary = {"<bos>": 0} | {f"w{i}": i for i in range(1, d_vocab)}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<bos>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>")


def load(folder: Path) -> tuple[TransformerLensReplacementModel, Tensor]:
    """The replacement model with the transcoder in memory, and the prompt."""
    shape = read_shape(folder)
    layers = read_transcoder(folder)
    transcoder = CrossLayerTranscoder(
        shape.n_layers, shape.n_features, shape.d_model, lazy_decoder=False, dtype=torch.float32
    )
    stacked = {k: torch.stack([w[k] for w in layers]) for k in ("W_enc", "b_enc", "b_dec")}
    decoders = {f"W_dec.{i}": weights["W_dec"] for i, weights in enumerate(layers)}
    transcoder.load_state_dict(stacked | decoders)
    model = TransformerLensReplacementModel(model_config(shape))
    fill(model, folder)
    model._configure_replacement_model(transcoder)
    model.tokenizer = tokenizer(shape.d_vocab)
    return model, load_file(folder / "prompt.safetensors")["tokens"]


def nodes(graph: Graph) -> dict[str, Tensor]:
    """Kind, layer, position and index of every node, as tl_attribution gives them."""
    n_layers, n = graph.cfg.n_layers, graph.n_pos
    features, tokens = graph.active_features[graph.selected_features], graph.input_tokens
    error = torch.cartesian_prod(torch.arange(n_layers), torch.arange(n))
    leaf, logits = torch.full((n,), -1), graph.logit_token_ids
    parts = [
        ("feature", *features.T),
        ("error", *error.T, torch.zeros(len(error), dtype=torch.long)),
        ("token", leaf, torch.arange(n), tokens),
        ("logit", torch.full_like(logits, n_layers), torch.full_like(logits, n - 1), logits),
    ]
    kinds = [torch.full((len(layer),), KINDS.index(kind)) for kind, layer, *_ in parts]
    columns = [torch.cat(column) for column in zip(*(part[1:] for part in parts), strict=True)]
    return dict(zip(KEY, [torch.cat(kinds), *columns], strict=True))


def run(folder: Path) -> None:
    """Trace once; write the graph, its scores, and what pruning keeps."""
    model, tokens = load(folder)
    with Measured() as measured:
        graph = attribute(tokens, model, max_n_logits=10, desired_logit_prob=0.95)
    with Measured() as pruning:
        kept = prune_graph(graph, 0.8, 0.98)
    tensors = nodes(graph) | {
        "adjacency": graph.adjacency_matrix,
        "probabilities": graph.logit_probabilities,
        "node_mask": kept.node_mask,
        "edge_mask": kept.edge_mask,
    }
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "peer.safetensors")
    report = {
        "version": version("circuit-tracer"),
        "seconds": measured.seconds,
        "gigabytes": measured.gigabytes,
        "prune_seconds": pruning.seconds,
        "scores": compute_graph_scores(graph),
    }
    (folder / "peer.json").write_text(json.dumps(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    torch.set_num_threads(THREADS)
    run(parser.parse_args().folder)
