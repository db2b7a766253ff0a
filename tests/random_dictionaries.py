"""Random dictionaries of every kind, sized for the tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.models import D_MODEL, N_LAYERS
from tl_attribution.dictionaries.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.dictionaries.transcoder import LayerWeights, Transcoder
from tl_attribution.hosts.models import neurons

FEATURES = 14


def _layers(*, cross: bool, skip: bool, window: int, offset: bool, seed: int) -> list[LayerWeights]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, size: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * size

    return [
        LayerWeights(
            W_enc=random(FEATURES, D_MODEL, size=D_MODEL**-0.5),
            b_enc=random(FEATURES, size=0.3),
            W_dec=random(FEATURES, written := written_by(layer, window, cross), D_MODEL, size=0.2),
            b_dec=random(D_MODEL, size=0.2),
            W_skip=random(D_MODEL, D_MODEL, size=0.15) if skip else None,
            offset=random(FEATURES, written, size=0.3) if offset else None,
        )
        for layer in range(N_LAYERS)
    ]


def written_by(layer: int, window: int, cross: bool) -> int:
    """Layers that a layer's features write to."""
    return min(window, N_LAYERS - layer) if cross else 1


def transcoder(
    activation: Activation | None = None,
    *,
    cross: bool = True,
    skip: bool = False,
    window: int = N_LAYERS,
    offset: bool = False,
    read: str = "mlp.hook_in",
    write: str = "hook_mlp_out",
    seed: int = 0,
) -> Transcoder:
    """A CLT, or with ``cross=False`` per-layer transcoders."""
    kind = CrossLayerTranscoder if cross else TranscoderSet
    return kind(
        _layers(cross=cross, skip=skip, window=window, offset=offset, seed=seed),
        activation or ReLU(),
        feature_input_hook=read,
        feature_output_hook=write,
    )


def _thresholds() -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(N_LAYERS, FEATURES, generator=generator) * 0.4


KINDS: dict[str, Callable[[Any], Dictionary]] = {
    "clt-relu": lambda model: transcoder(),
    "clt-jumprelu": lambda model: transcoder(JumpReLU(_thresholds())),
    "clt-topk": lambda model: transcoder(TopK(4)),
    "clt-batchtopk": lambda model: transcoder(BatchTopK(4, 0.3)),
    "clt-window": lambda model: transcoder(window=2),
    "clt-offset": lambda model: transcoder(offset=True),
    "clt-skip": lambda model: transcoder(skip=True),
    "per-layer": lambda model: transcoder(cross=False),
    "per-layer-skip": lambda model: transcoder(cross=False, skip=True),
    "per-layer-skip-resid": lambda model: transcoder(cross=False, skip=True, read="hook_mlp_in"),
    "clt-resid-pre": lambda model: transcoder(skip=True, read="hook_resid_pre"),
    "clt-normalized": lambda model: transcoder(skip=True, read="ln2.hook_normalized"),
    "clt-raw-write": lambda model: transcoder(skip=True, write="mlp.hook_out"),
    "clt-normalized-no-skip": lambda model: transcoder(read="ln2.hook_normalized"),
    "neurons": neurons,
}
"""Every kind, activation, and place to read or write. Called with the model."""
