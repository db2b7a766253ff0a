"""A cross-layer transcoder as SAELens's ``save_model`` writes it: ``cfg.json`` with architecture
``cross_layer_transcoder``, and ``sae_weights.safetensors``. Read here without SAELens; its class,
and what each tensor means, is in plugins/sae_lens/cross_layer.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats.common import Found, need, peek, read_json
from tl_attribution.dictionaries.layers import LayerWeights, StoredLayer
from tl_attribution.dictionaries.stored import Stored
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

NAME = "sae-lens cross-layer transcoder"
NEEDS = "cfg.json with architecture cross_layer_transcoder, and sae_weights.safetensors"

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURE = "cross_layer_transcoder"
STACKED = ("W_enc", "b_enc", "b_dec")
OPTIONAL = ("W_skip", "threshold")


def recognise(folder: Path) -> bool:
    """Whether the folder holds a cross-layer transcoder of SAELens."""
    return peek(folder / CONFIG).get("architecture") == ARCHITECTURE


def read(folder: Path) -> Found:
    """Open a dictionary. Raises FormatError if a file is missing, truncated or corrupt, or does not
    say what it must, and MismatchError for shapes that don't fit each other."""
    config = read_json(folder / CONFIG)
    need(
        config,
        folder / CONFIG,
        n_layers=int,
        activation=dict,
        feature_input_hook=str,
        feature_output_hook=str,
    )
    file = TensorFile(folder / WEIGHTS)
    _check(file, config["n_layers"])
    biases = {name: file.read(name) for name in ("b_enc", "b_dec")}
    layers = [
        StoredLayer(
            Stored(file, "W_enc", (layer,), transposed=True),
            biases["b_enc"][layer],
            tuple(
                Stored(file, f"W_dec.{layer}", (slice(None), k))
                for k in range(file.shape(f"W_dec.{layer}")[1])
            ),
            biases["b_dec"][layer],
            Stored(file, "W_skip", (layer,)) if "W_skip" in file else None,
        )
        for layer in range(config["n_layers"])
    ]
    metadata = config.get("metadata")
    return Found(
        CrossLayerTranscoder,
        layers,
        activations.from_config(config["activation"], file.optional("threshold")),
        config["feature_input_hook"],
        config["feature_output_hook"],
        metadata.get("model_name") if isinstance(metadata, dict) else None,
    )


def _check(file: TensorFile, n_layers: int) -> None:
    needed = {*STACKED, *(f"W_dec.{layer}" for layer in range(n_layers))}
    held = set(file.infos)
    lacking, unknown = needed - held, held - needed - set(OPTIONAL)
    stacked = held & {*STACKED, *OPTIONAL}
    short = [name for name in sorted(stacked) if file.shape(name)[:1] != (n_layers,)]
    flat = [name for name in sorted(needed & held - stacked) if len(file.shape(name)) != 3]
    if n_layers < 1 or lacking or unknown or short or flat:
        raise FormatError(
            f"{file.path}: lacks {sorted(lacking)}, holds unknown {sorted(unknown)}, does not have "
            f"{n_layers} layers in {short}, nor feature, written and d_model in {flat}"
        )


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
