"""SAELens's transcoders with random weights."""

from __future__ import annotations

from typing import Any

import sae_lens
import torch
from sae_lens.saes.sae import SAE, SAEMetadata

from tests.models import D_MODEL, N_LAYERS
from tests.random_dictionaries import FEATURES

CLASSES = {
    "transcoder": (sae_lens.Transcoder, sae_lens.TranscoderConfig),
    "skip_transcoder": (sae_lens.SkipTranscoder, sae_lens.SkipTranscoderConfig),
    "jumprelu_transcoder": (sae_lens.JumpReLUTranscoder, sae_lens.JumpReLUTranscoderConfig),
    "jumprelu_skip_transcoder": (
        sae_lens.JumpReLUSkipTranscoder,
        sae_lens.JumpReLUSkipTranscoderConfig,
    ),
}


def transcoder(
    architecture: str = "transcoder", layer: int = 0, d_model: int = D_MODEL, **said: Any
) -> SAE[Any]:
    """One layer's; ``said`` are metadata, or options of the configuration by its names."""
    sae_class, config = CLASSES[architecture]
    options = {name: said.pop(name) for name in list(said) if hasattr(config, name)}
    metadata = {
        "hook_name": f"blocks.{layer}.mlp.hook_in",
        "hook_name_out": f"blocks.{layer}.hook_mlp_out",
        "model_name": "tiny",
        **said,
    }
    cfg = config(
        d_in=d_model,
        d_sae=FEATURES,
        **{"d_out": d_model, "apply_b_dec_to_input": False, **options},
        metadata=SAEMetadata(**metadata),
    )
    sae = sae_class(cfg)
    generator = torch.Generator().manual_seed(layer)
    for name, parameter in sae.named_parameters():
        random = torch.randn(parameter.shape, generator=generator) * 0.3
        parameter.data = random.abs() if name == "threshold" else random
    return sae


def transcoders(architecture: str = "transcoder", **said: Any) -> list[SAE[Any]]:
    """One a layer."""
    return [transcoder(architecture, layer, **said) for layer in range(N_LAYERS)]
