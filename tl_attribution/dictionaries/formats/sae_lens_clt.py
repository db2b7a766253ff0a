"""A cross-layer transcoder as SAELens's ``save_model`` writes it: ``cfg.json`` with architecture
``cross_layer_transcoder``, and ``sae_weights.safetensors``. Read and written here without SAELens;
its class, and what each tensor means, is in plugins/sae_lens/cross_layer.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.activations import JumpReLU, TopK
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats.common import Found, need, peek, read_json
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import LayerWeights, StoredLayer
from tl_attribution.dictionaries.stored import Stored
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError, InputError

NAME = "sae-lens cross-layer transcoder"
NEEDS = "cfg.json with architecture cross_layer_transcoder, and sae_weights.safetensors"

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURE = "cross_layer_transcoder"
STACKED = ("W_enc", "b_enc", "b_dec")
OPTIONAL = ("W_skip", "threshold")
SINCE = "6.0.0"
"""The SAELens whose config this is; without it SAELens would take it for an older one."""


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


def write(dictionary: CrossLayerTranscoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a folder that ``SAE.load_from_disk`` opens, whole or not at all. All weights are read
    into memory: SAELens has them in one file. Raises InputError for what has no place there."""
    tensors = state(dictionary)
    said = {**config(dictionary, tensors), "device": "cpu"}

    def fill(folder: Path) -> None:
        save_tensors({**tensors}, folder / WEIGHTS, "sae-lens")
        (folder / CONFIG).write_text(json.dumps(said, indent=2) + "\n")

    write_folder(path, "sae-lens", fill, overwrite=overwrite)


def config(dictionary: CrossLayerTranscoder, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What SAELens's configuration says of a dictionary whose state this is."""
    return {
        "architecture": ARCHITECTURE,
        "d_in": dictionary.d_model,
        "d_sae": dictionary.n_features,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": str(tensors["W_enc"].device),
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SINCE, "model_name": dictionary.model_name},
        "n_layers": dictionary.n_layers,
        "window": dictionary.layers[0].n_written,
        "skip": "W_skip" in tensors,
        "activation": activations.to_config(dictionary.activation),
        "feature_input_hook": dictionary.feature_input_hook,
        "feature_output_hook": dictionary.feature_output_hook,
    }


def state(dictionary: CrossLayerTranscoder) -> dict[str, Tensor]:
    """A dictionary as the state dict of SAELens's class. Raises InputError for offsets of
    activations and ranks of TopK, which it has no place for."""
    layers, activation = dictionary.layers, dictionary.activation
    ranked = isinstance(activation, TopK) and activation.rank is not None
    if ranked or any(layer.offset is not None for layer in layers):
        raise InputError(
            f"{NAME} has no place for {'ranks of TopK' if ranked else 'offsets of activations'}; "
            "save without format= to keep them"
        )
    tensors = {
        "W_enc": torch.stack([layer.W_enc.T for layer in layers]),
        "b_enc": torch.stack([layer.b_enc for layer in layers]),
        "b_dec": torch.stack([layer.b_dec for layer in layers]),
        **{f"W_dec.{i}": layer.W_dec for i, layer in enumerate(layers)},
    }
    if any(layer.W_skip is not None for layer in layers):
        width = dictionary.d_model
        none = tensors["W_enc"].new_zeros(width, width)
        tensors["W_skip"] = torch.stack([none if w.W_skip is None else w.W_skip for w in layers])
    if isinstance(activation, JumpReLU):
        tensors["threshold"] = activation.threshold
    return tensors
