"""Gemma Scope's layouts. The releases have files and no code that writes them, so the files are
made here, in the layout of the releases, and computed by circuit-tracer's readers of them. In
circuit-tracer's environment (0.5.0):

    python gemma_scope_case.py OUT
"""

from __future__ import annotations

import json
from pathlib import Path

import cases
import numpy as np
import torch
from cases import FEATURES, LAYERS, WIDTH
from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt
from circuit_tracer.transcoder.single_layer_transcoder import (
    load_gemma_scope_2_transcoder,
    load_gemma_scope_transcoder,
)
from safetensors.torch import save_file
from torch import Tensor

FP32 = {"dtype": torch.float32, "device": torch.device("cpu")}
CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-270m-pt",
    "hf_hook_point_in": "model.layers.{}.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.{}.post_feedforward_layernorm.output",
}


def weights(layer: int, *, skip: bool, cross: bool) -> dict[str, Tensor]:
    """Random weights of a layer."""
    decoder = torch.randn(FEATURES, LAYERS, WIDTH) * 0.2
    decoder[:, :layer] = 0
    tensors = {
        "w_enc": torch.randn(WIDTH, FEATURES) * WIDTH**-0.5,
        "b_enc": torch.randn(FEATURES) * 0.3,
        "w_dec": decoder if cross else decoder[:, layer].contiguous(),
        "b_dec": torch.randn(WIDTH),
        "threshold": torch.rand(FEATURES),
    }
    return tensors | ({"affine_skip_connection": torch.randn(WIDTH, WIDTH) * 0.2} if skip else {})


def first(into: Path, layer: int) -> Path:
    """A file of Gemma Scope 1."""
    path = into / f"layer_{layer}" / "width_16k" / f"average_l0_{70 + layer}" / "params.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    tensors = weights(layer, skip=False, cross=False)
    np.savez(path, **{names.get(k, k): t.numpy() for k, t in tensors.items()})
    return path


def second(into: Path, layer: int, *, skip: bool) -> Path:
    """A transcoder of Gemma Scope 2."""
    path = into / f"layer_{layer}_width_16k_l0_small_affine" / "params.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights(layer, skip=skip, cross=False), path)
    config = {k: v.format(layer) for k, v in CONFIG.items()}
    (path.parent / "config.json").write_text(json.dumps(config))
    return path


def clt(into: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """A CLT of Gemma Scope 2. circuit-tracer's reader leaves out the last of the paths it is given,
    so it is given one more."""
    paths = {i: str(into / f"params_layer_{i}.safetensors") for i in range(LAYERS)}
    for layer, path in paths.items():
        save_file(weights(layer, skip=True, cross=True), path)
    model = load_gemma_scope_2_clt(paths | {LAYERS: ""}, **FP32)
    acts = model.encode(x)
    return acts, model.decode(acts, x)


def main(out: Path) -> None:
    """Write every variant and what it computes."""
    names = ["npz", "transcoders", "transcoders-affine", "clt"]
    for name, folder, into in cases.variants(out, "gemma-scope", names):
        x = cases.inputs()
        if name == "clt":
            cases.write(folder, x, *clt(into, x))
            continue
        acts, recon = [], []
        for layer in range(LAYERS):
            if name == "npz":
                model = load_gemma_scope_transcoder(str(first(into, layer)), layer, **FP32)
            else:
                path = second(into, layer, skip="affine" in name)
                model = load_gemma_scope_2_transcoder(str(path), layer, **FP32)
            acts.append(model.encode(x[layer]))
            recon.append(model.decode(acts[-1], x[layer]))
        cases.write(folder, x, torch.stack(acts), torch.stack(recon))


if __name__ == "__main__":
    main(cases.arguments(__doc__))
