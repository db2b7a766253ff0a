"""SAELens' transcoders, saved and computed by its own code, and with ``--read`` what it computes
with those that tl_attribution wrote. In an environment with sae-lens 6.54:

    python sae_lens_.py OUT                 python sae_lens_.py OUT --read
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cases
import torch
from cases import FEATURES, LAYERS, WIDTH
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from safetensors.torch import load_file

CLASSES = {
    "transcoder": (Transcoder, TranscoderConfig),
    "skip": (SkipTranscoder, SkipTranscoderConfig),
    "jumprelu": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
    "jumprelu-skip": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
}


def make(out: Path) -> None:
    """Write every variant and what it computes."""
    for name, folder, into in cases.variants(out, "sae-lens", list(CLASSES)):
        model_class, config_class = CLASSES[name]
        x, acts, recon = cases.inputs(), [], []
        for layer in range(LAYERS):
            hooks = {"hook_name": f"blocks.{layer}.ln2.hook_normalized"}
            hooks["hook_name_out"] = f"blocks.{layer}.hook_mlp_out"
            config = config_class(
                d_in=WIDTH, d_sae=FEATURES, d_out=WIDTH, apply_b_dec_to_input=False
            )
            config.metadata = SAEMetadata(model_name="tiny", **hooks)
            model = model_class(config)
            cases.randomise(model)
            model.save_model(into / f"any_name_{layer}")
            out_one, acts_one = model.forward_with_activations(x[layer])
            acts.append(acts_one)
            recon.append(out_one)
        cases.write(folder, x, torch.stack(acts), torch.stack(recon))


def read(out: Path) -> None:
    """Open what compare.py wrote."""
    for folder in sorted((out / "written").glob("sae-lens-*")):
        expected = load_file(folder / "expected.safetensors")
        for layer, x in enumerate(expected["x"]):
            model = SAE.load_from_disk(folder / "dictionary" / f"layer_{layer}")
            recon, acts = model.forward_with_activations(x)
            for part, found in (("acts", acts), ("recon", recon)):
                wrong = float(
                    (found - expected[part][layer]).abs().max() / expected[part].abs().max()
                )
                print(f"{folder.name} layer {layer}: {part} differ by {wrong:.1e} relative")
                assert wrong < 1e-5
        print(f"  {type(model).__name__}, {model.cfg.metadata}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--read", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    (read if arguments.read else make)(arguments.out)
