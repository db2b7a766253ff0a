"""circuit-tracer's side of compare_interventions.py; environment: see peer_circuit_tracer.py."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from common import THREADS, fill, model_config, read_shape, read_transcoder
from peer_circuit_tracer import load, tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor


def per_layer(folder: Path) -> tuple[TransformerLensReplacementModel, Tensor]:
    """The replacement model with each layer's own decoder only."""
    shape = read_shape(folder)
    layers = {}
    for i, weights in enumerate(read_transcoder(folder)):
        layers[i] = SingleLayerTranscoder(
            shape.d_model,
            shape.n_features,
            torch.nn.functional.relu,
            i,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        layers[i].load_state_dict({**weights, "W_dec": weights["W_dec"][:, 0].contiguous()})
    transcoders = TranscoderSet(layers, "hook_resid_mid", "hook_mlp_out")
    model = TransformerLensReplacementModel(model_config(shape))
    fill(model, folder)
    model._configure_replacement_model(transcoders)
    model.tokenizer = tokenizer(shape.d_vocab)
    return model, load_file(folder / "prompt.safetensors")["tokens"]


def run(folder: Path, kind: str) -> None:
    """Write logits and pre-activations of every mode and group of changes."""
    model, tokens = load(folder) if kind == "cross-layer" else per_layer(folder)
    groups = json.loads((folder / "interventions.json").read_text())
    outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, mode in json.loads((folder / "modes.json").read_text()).items():
        layers = None if mode["layers"] is None else range(*mode["layers"])
        outputs[name] = [
            model.feature_intervention(
                tokens,
                [tuple(change) for change in group],
                constrained_layers=layers,
                freeze_attention=mode["frozen"],
                apply_activation_function=False,
            )
            for group in groups
        ]
    outputs["unchanged"] = [model.feature_intervention(tokens, [], apply_activation_function=False)]
    tensors = {}
    for name, runs in outputs.items():
        tensors[f"{name}: logits"] = torch.stack([logits[0] for logits, _ in runs])
        activations = torch.stack([a for _, a in runs])[:, :, 1:]
        tensors[f"{name}: pre-activations"] = activations
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / f"peer_{kind}.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=("cross-layer", "per-layer"))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    run(arguments.folder, arguments.kind)
