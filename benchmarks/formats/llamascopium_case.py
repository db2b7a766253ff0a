"""Llamascopium's dictionaries, saved and computed by its own code. In its environment (2.0.0b34;
see benchmarks/clt_trainers/llamascopium.py for how to set it up):

    python llamascopium_case.py OUT
"""

from __future__ import annotations

from pathlib import Path

import cases
import torch
from cases import FEATURES, LAYERS, WIDTH
from llamascopium import CLTConfig
from llamascopium.models.clt import CrossLayerTranscoder

INFERENCE = {"norm_activation": "inference"}
VARIANTS = {
    "relu": {"act_fn": "relu"},
    "relu-inference": {"act_fn": "relu", **INFERENCE},
    "topk": {"act_fn": "topk", "top_k": 6},
    "topk-plain": {"act_fn": "topk", "top_k": 6, "sparsity_include_decoder_norm": False},
    "jumprelu": {"act_fn": "jumprelu"},
    "jumprelu-plain": {"act_fn": "jumprelu", "sparsity_include_decoder_norm": False, **INFERENCE},
}


def main(out: Path) -> None:
    """Write every variant and what it computes."""
    names_in = [f"blocks.{i}.ln2.hook_normalized" for i in range(LAYERS)]
    names_out = [f"blocks.{i}.hook_mlp_out" for i in range(LAYERS)]
    for name, folder, into in cases.variants(out, "llamascopium", list(VARIANTS)):
        config = CLTConfig(
            hook_points_in=names_in,
            hook_points_out=names_out,
            d_model=WIDTH,
            expansion_factor=FEATURES / WIDTH,
            device="cpu",
            dtype=torch.float32,
            **VARIANTS[name],
        )
        model = CrossLayerTranscoder(config)
        cases.randomize(model)
        norms = {hook: 3.0 + i for i, hook in enumerate(names_in + names_out)}
        model.set_dataset_average_activation_norm(norms)
        x = cases.inputs()
        batch = dict(zip(names_in, x, strict=True)) | dict(zip(names_out, x, strict=True))
        batch, scales = model.normalize_activations(batch, return_scale_factor=True)
        acts = model.encode(model.prepare_input(batch)[0])
        recon = model.decode(acts)
        recon = torch.stack([r / scales[h] for r, h in zip(recon, names_out, strict=True)])
        model.save_pretrained(into)
        config.save_hyperparameters(into)
        cases.write(folder, x, acts.transpose(0, 1), recon)


if __name__ == "__main__":
    main(cases.arguments(__doc__))
