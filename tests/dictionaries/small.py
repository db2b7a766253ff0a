"""A cross-layer transcoder that needs no model: quick to make, save and load."""

from __future__ import annotations

import torch

from tl_attribution.dictionaries.activations import ReLU
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.transcoder import LayerWeights

N_LAYERS, FEATURES, D_MODEL = 3, 40, 16
X = torch.randn(N_LAYERS, 5, D_MODEL, generator=torch.Generator().manual_seed(1))
"""Something to read."""


def small(seed: int = 0) -> CrossLayerTranscoder:
    generator = torch.Generator().manual_seed(seed)
    layers = [
        LayerWeights(
            W_enc=torch.randn(FEATURES, D_MODEL, generator=generator),
            b_enc=torch.randn(FEATURES, generator=generator),
            W_dec=torch.randn(FEATURES, N_LAYERS - layer, D_MODEL, generator=generator),
            b_dec=torch.randn(D_MODEL, generator=generator),
        )
        for layer in range(N_LAYERS)
    ]
    return CrossLayerTranscoder(
        layers, ReLU(), feature_input_hook="hook_resid_mid", model_name="gpt2"
    )
