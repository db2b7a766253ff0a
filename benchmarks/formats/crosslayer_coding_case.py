"""crosslayer-coding's dictionaries, saved and computed by its own code. In its environment
(9499108; see benchmarks/clt_trainers/crosslayer_coding.py for how to set it up):

    python crosslayer_coding_case.py OUT
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cases
import torch
from cases import FEATURES, LAYERS, WIDTH
from clt.config import CLTConfig
from clt.models.clt import CrossLayerTranscoder
from safetensors.torch import save_file

TIED = {"enable_feature_offset": True, "enable_feature_scale": True}
VARIANTS = {
    "jumprelu": {},
    "relu": {"activation_fn": "relu"},
    "mean-std": {"normalization_method": "mean_std"},
    "sqrt-d-model": {"normalization_method": "sqrt_d_model"},
    "per-source": {"decoder_tying": "per_source", **TIED, "normalization_method": "mean_std"},
    "per-target": {"decoder_tying": "per_target", **TIED},
    "per-target-skip": {
        "decoder_tying": "per_target",
        "skip_connection": True,
        "normalization_method": "mean_std",
    },
    "own-skip": {"skip_connection": True},
}


def statistics() -> dict:
    """Random ones, as norm_stats.json has them."""

    def draw() -> dict:
        return {"mean": torch.randn(WIDTH).tolist(), "std": (torch.rand(WIDTH) + 0.5).tolist()}

    return {str(layer): {"inputs": draw(), "targets": draw()} for layer in range(LAYERS)}


def normalized(x: torch.Tensor, method: str, stats: dict, end: str, back: bool) -> torch.Tensor:
    """As its activation stores do, and as its losses undo it."""
    if method == "sqrt_d_model":
        return x / WIDTH**0.5 if back else x * WIDTH**0.5
    if method == "none":
        return x
    mean = torch.tensor([stats[str(i)][end]["mean"] for i in range(LAYERS)])[:, None]
    std = torch.tensor([stats[str(i)][end]["std"] for i in range(LAYERS)])[:, None] + 1e-6
    return x * std + mean if back else (x - mean) / std


def main(out: Path) -> None:
    """Write every variant and what it computes."""
    for name, folder, into in cases.variants(out, "crosslayer-coding", list(VARIANTS)):
        templates = {"tl_input_template": "blocks.{}.ln2.hook_normalized"}
        templates["tl_output_template"] = "blocks.{}.hook_mlp_out"
        sizes = {"num_features": FEATURES, "num_layers": LAYERS, "d_model": WIDTH}
        config = CLTConfig(**sizes, **templates, **VARIANTS[name])
        model = CrossLayerTranscoder(config, None, torch.device("cpu"))
        cases.randomize(model, except_for=("log_threshold",))
        if model.theta_manager.log_threshold is not None:
            model.theta_manager.log_threshold.data = (torch.rand(LAYERS, FEATURES) * 0.6).log()
        for part, parameter in model.named_parameters():
            source, arrow, target = part.rsplit(".", 1)[-1].partition("->")
            if "skip_weights" in part and arrow and source != target:
                parameter.data.zero_()
        save_file(model.state_dict(), into / "clt_checkpoint_latest.safetensors")
        (into / "cfg.json").write_text(json.dumps(asdict(config)))
        stats, method = statistics(), config.normalization_method
        if method == "mean_std":
            (into / "norm_stats.json").write_text(json.dumps(stats))
        x = cases.inputs()
        read = dict(enumerate(normalized(x, method, stats, "inputs", back=False)))
        acts = torch.stack([model.get_feature_activations(read)[i] for i in range(LAYERS)])
        recon = torch.stack([model(read)[i] for i in range(LAYERS)])
        cases.write(folder, x, acts, normalized(recon, method, stats, "targets", back=True))


if __name__ == "__main__":
    main(cases.arguments(__doc__))
