"""A cross-layer transcoder as SAELens's ``save_model`` writes it: ``cfg.json`` with architecture
``cross_layer_transcoder``, and ``sae_weights.safetensors``. Read here without SAELens; its class,
and what each tensor means, is in plugins/sae_lens/cross_layer.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.transcoder import LayerWeights
from tl_attribution.errors import FormatError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURE = "cross_layer_transcoder"
STACKED = ("W_enc", "b_enc", "b_dec")
OPTIONAL = ("W_skip", "threshold")


def recognise(folder: Path) -> bool:
    """Whether the folder holds a cross-layer transcoder of SAELens."""
    try:
        return json.loads((folder / CONFIG).read_text())["architecture"] == ARCHITECTURE
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(folder: Path, *, device: str | None, dtype: torch.dtype | None) -> CrossLayerTranscoder:
    """Open a dictionary. Raises FormatError if a file is missing, truncated or corrupt, or does not
    say what it must, and MismatchError for shapes that don't fit each other."""
    config = json.loads((folder / CONFIG).read_text())
    lacking = [
        key
        for key, kind in (
            ("n_layers", int),
            ("activation", dict),
            ("feature_input_hook", str),
            ("feature_output_hook", str),
        )
        if not isinstance(config.get(key), kind)
    ]
    if lacking or config["n_layers"] < 1:
        raise FormatError(
            f"{folder / CONFIG} lacks or misstates {', '.join(lacking or ['n_layers'])}"
        )
    tensors = _tensors(folder / WEIGHTS, config["n_layers"], device, dtype)
    return assemble(config, tensors, (config.get("metadata") or {}).get("model_name"))


def assemble(
    config: dict[str, Any], tensors: dict[str, Tensor], model_name: str | None
) -> CrossLayerTranscoder:
    """The dictionary of a configuration and a state dict of SAELens's class, of which it shares the
    decoders."""
    skips = tensors.get("W_skip")
    layers = [
        LayerWeights(
            W_enc=tensors["W_enc"][layer].T.contiguous(),
            b_enc=tensors["b_enc"][layer],
            W_dec=tensors[f"W_dec.{layer}"],
            b_dec=tensors["b_dec"][layer],
            W_skip=None if skips is None else skips[layer],
        )
        for layer in range(config["n_layers"])
    ]
    return CrossLayerTranscoder(
        layers,
        activations.from_config(config["activation"], tensors.get("threshold")),
        feature_input_hook=config["feature_input_hook"],
        feature_output_hook=config["feature_output_hook"],
        model_name=model_name,
    )


def _tensors(
    file: Path, n_layers: int, device: str | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    if not file.is_file():
        raise FormatError(f"{file} is missing: the dictionary is not complete")
    try:
        with safe_open(file, framework="pt", device=device or "cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{file} is truncated or corrupt: {error}") from error
    needed = {*STACKED, *(f"W_dec.{layer}" for layer in range(n_layers))}
    lacking, unknown = needed - set(tensors), set(tensors) - needed - set(OPTIONAL)
    short = [n for n in tensors if n in (*STACKED, *OPTIONAL) and len(tensors[n]) != n_layers]
    if lacking or unknown or short:
        raise FormatError(
            f"{file}: lacks {sorted(lacking)}, holds unknown {sorted(unknown)}, and of "
            f"{n_layers} layers not all in {short}"
        )
    return tensors if dtype is None else {k: t.to(dtype) for k, t in tensors.items()}
