"""SAELens' transcoders, saved and computed by its own code, and with ``--read`` what it computes
with those that tl_attribution wrote. In an environment with sae-lens 6.54:

    python sae_lens_case.py OUT                 python sae_lens_case.py OUT --read
"""

from __future__ import annotations

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
            cases.randomize(model)
            model.save_model(into / f"any_name_{layer}")
            layer_out, layer_acts = model.forward_with_activations(x[layer])
            acts.append(layer_acts)
            recon.append(layer_out)
        cases.write(folder, x, torch.stack(acts), torch.stack(recon))


def read(out: Path) -> None:
    """Open what compare.py wrote: transcoders a layer at a time, a CLT (of the architecture that
    tl_attribution registers) at once."""
    import tl_attribution  # noqa: F401

    for folder, x in cases.ours(out, "sae-lens"):
        at = folder / "dictionary"
        if "clt" in folder.name:
            model = SAE.load_from_disk(at)
            results = [(model(x), model.encode(x))]
        else:
            models = [SAE.load_from_disk(at / f"layer_{i}") for i in range(len(x))]
            results = [m.forward_with_activations(rows) for m, rows in zip(models, x, strict=True)]
            model = models[0]
        recon, acts = (
            torch.stack(part).reshape(LAYERS, *part[0].shape[-2:])
            for part in zip(*results, strict=True)
        )
        cases.check_agreement(folder, acts, recon)
        print(f"  {type(model).__name__}")


if __name__ == "__main__":
    cases.run(__doc__, make, read)
