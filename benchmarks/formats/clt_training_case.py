"""clt-training's dictionaries, saved and evaluated by its code. In its environment (cf9821f; see
benchmarks/clt_trainers/clt_training.py for how to set it up):

    python clt_training_case.py OUT
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
os.environ["SPARSIFY_NO_COMPILE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import cases
import torch
from cases import FEATURES, LAYERS, WIDTH
from sparsify import sparse_coder, utils
from sparsify.config import SparseCoderConfig
from sparsify.runner import CrossLayerRunner
from sparsify.sparse_coder import SparseCoder

VARIANTS = {
    "plain": {"cross": LAYERS, "zero_offsets": True},
    "offsets": {"cross": LAYERS},
    "normalized": {"cross": LAYERS, "normalize_io": True},
    "window": {"cross": 2, "normalize_io": True},
    "scaled": {"cross": LAYERS, "post_encoder_scale": True},
    "tied": {"cross": LAYERS, "per_source_tied": True, "post_encoder_scale": True},
    "divided": {"cross": LAYERS, "divide_cross_layer": True, "normalize_io": True},
    "own-skip": {"cross": LAYERS, "skip_connection": True, "normalize_io": True},
    "per-layer": {"cross": 0},
    "per-layer-skip": {"cross": 0, "skip_connection": True, "normalize_io": True},
}
ForwardOutput = sparse_coder.ForwardOutput


def forward_output(*values: object) -> object:
    """At this commit untied decoding passes two values too many, left from before a removal."""
    return ForwardOutput(*values[:4], values[-1]) if len(values) == 7 else ForwardOutput(*values)


def save_sharded(state: dict, filename: str, **options: object) -> bool:
    """W_dec is W_decs.0: on a GPU the copies to the CPU are two tensors, here they must be made."""
    return utils.save_sharded({k: v.clone() for k, v in state.items()}, filename, **options)


def coder(options: dict, layer: int) -> SparseCoder:
    """A random coder of a layer."""
    options = dict(options)
    cross, zero = options.pop("cross"), options.pop("zero_offsets", False)
    targets = min(cross, LAYERS - layer)
    config = SparseCoderConfig(
        num_latents=FEATURES, k=6, transcode=True, n_targets=targets, n_sources=layer + 1, **options
    )
    model = SparseCoder(WIDTH, config, dtype=torch.float32)
    cases.randomize(model, except_for=("post_enc",) if zero else ())
    for name, parameter in model.named_parameters():
        if name.startswith("W_skips.") and name != "W_skips.0":
            parameter.data.zero_()
    if config.normalize_io:
        model.in_norm.fill_(5.0 + layer)
        model.out_norm.fill_(2.0 + layer)
    return model


def main(out: Path) -> None:
    """Write every variant and what it computes."""
    sparse_coder.ForwardOutput = forward_output
    sparse_coder.save_sharded = save_sharded
    for name, folder, into in cases.variants(out, "clt-training", list(VARIANTS)):
        coders = [coder(VARIANTS[name], layer) for layer in range(LAYERS)]
        x, runner = cases.inputs(), CrossLayerRunner()
        acts, recon = torch.zeros(LAYERS, cases.POSITIONS, FEATURES), []
        for layer, model in enumerate(coders):
            model.save_to_disk(into / f"layers.{layer}.mlp")
            top = model.encode(x[layer])
            acts[layer].scatter_(1, top.top_indices, top.top_acts)
            if VARIANTS[name]["cross"]:
                done = runner(x[layer], x[layer], model, f"layers.{layer}.mlp")
            else:
                done = model(x[layer], x[layer])
            recon.append(done.sae_out)
        (into / "config.json").write_text(json.dumps({"model": "tiny", "hookpoints_in": []}))
        cases.write(folder, x, acts, torch.stack(recon))


if __name__ == "__main__":
    main(cases.arguments(__doc__))
