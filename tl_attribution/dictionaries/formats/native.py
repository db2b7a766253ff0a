"""Our own format: ``config.json`` and ``layer_0.safetensors``, ``layer_1.safetensors``, …

A layer's file holds ``W_enc`` [feature, d_model], ``b_enc``, ``W_dec`` [feature, written, d_model],
``b_dec`` and, where there are any, ``W_skip`` [out, in], ``threshold``, ``offset`` [feature,
written] and ``rank`` (TopK ranks by it times the pre-activation). Of the decoders only the rows
of active features are ever read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.activations import JumpReLU, TopK
from tl_attribution.dictionaries.formats.common import DictionaryFiles, peek, read_json
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.weights import TranscoderKind, TranscoderWeights
from tl_attribution.errors import FormatError

NAME = "tl-attribution"
NEEDS = "config.json and layer_0.safetensors, layer_1.safetensors, …"

CONFIG = "config.json"
FORMAT = "tl-attribution dictionary"
VERSION = 1
KINDS: tuple[TranscoderKind, ...] = get_args(TranscoderKind)
PARTS = ("W_enc", "b_enc", "W_dec", "b_dec")
OPTIONAL = ("W_skip", "offset")
BY_FEATURE = ("threshold", "rank")


def recognize(folder: Path) -> bool:
    """Whether the folder holds a dictionary in this format."""
    return peek(folder / CONFIG).get("format") == FORMAT


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.safetensors"


def write(weights: TranscoderWeights, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a dictionary with :func:`.writing.write_folder`, which raises InputError."""
    write_folder(path, NAME, lambda folder: _write_files(weights, folder), overwrite=overwrite)


def _write_files(weights: TranscoderWeights, folder: Path) -> None:
    for i, layer in enumerate(weights.layers):
        tensors = {name: getattr(layer, name) for name in (*PARTS, *OPTIONAL)}
        match weights.activation:
            case JumpReLU(threshold):
                tensors["threshold"] = threshold[i]
            case TopK(_, rank) if rank is not None:
                tensors["rank"] = rank[i]
        save_tensors(tensors, _layer_file(folder, i), NAME)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "kind": weights.kind,
        "n_layers": weights.n_layers,
        "n_features": weights.n_features,
        "d_model": weights.d_model,
        "feature_input_hook": weights.feature_input_hook,
        "feature_output_hook": weights.feature_output_hook,
        "model_name": weights.model_name,
        "activation": activations.to_config(weights.activation),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read(folder: Path) -> DictionaryFiles:
    """Open a dictionary. Raises FormatError if a file is missing, truncated or corrupt, or lacks
    required settings."""
    config = _config(folder)
    opened = [_open(_layer_file(folder, layer)) for layer in range(config["n_layers"])]
    layers = [_layer(file) for file in opened]
    for name, axis in (("n_features", 0), ("d_model", 1)):
        if layers[0].shape[axis] != config[name]:
            raise FormatError(
                f"{folder}: config.json says {name}={config[name]}, the weights have "
                f"{layers[0].shape[axis]}"
            )
    by_feature = {name: _stacked([f.optional(name) for f in opened]) for name in BY_FEATURE}
    return DictionaryFiles(
        config["kind"],
        layers,
        activations.from_config(config["activation"], **by_feature),
        config["feature_input_hook"],
        config["feature_output_hook"],
        config.get("model_name"),
    )


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    if config.get("version") != VERSION:
        raise FormatError(
            f"{folder} is in version {config.get('version')} of this format; this package reads "
            f"version {VERSION}: update tl-attribution"
        )
    required = {
        "kind": str,
        "n_layers": int,
        "n_features": int,
        "d_model": int,
        "feature_input_hook": str,
        "feature_output_hook": str,
        "activation": dict,
    }
    wrong = [k for k, kind in required.items() if not isinstance(config.get(k), kind)]
    if wrong or config["kind"] not in KINDS or config["n_layers"] < 1:
        raise FormatError(
            f"{folder / CONFIG} lacks or misstates {', '.join(wrong) or 'kind or n_layers'}; "
            f"kind is one of {', '.join(map(repr, KINDS))}"
        )
    return config


def _open(path: Path) -> TensorFile:
    file = TensorFile(path)
    lacking = [name for name in PARTS if name not in file]
    unknown = [name for name in file.infos if name not in (*PARTS, *OPTIONAL, *BY_FEATURE)]
    if lacking or unknown:
        raise FormatError(f"{path}: lacks {lacking}, holds unknown {unknown}")
    return file


def _layer(file: TensorFile) -> StoredLayer:
    shape = file.shape("W_dec")
    if len(shape) != 3:
        raise FormatError(f"{file.path}: W_dec is {shape}, expected [feature, written, d_model]")
    return StoredLayer(
        StoredMatrix(file, "W_enc"),
        file.read("b_enc"),
        tuple(StoredMatrix(file, "W_dec", (slice(None), k)) for k in range(shape[1])),
        file.read("b_dec"),
        StoredMatrix(file, "W_skip") if "W_skip" in file else None,
        file.optional("offset"),
    )


def _stacked(per_layer: list[Tensor | None]) -> Tensor | None:
    """Stack the tensors of the layers; None unless every layer has one."""
    tensors = [tensor for tensor in per_layer if tensor is not None]
    return torch.stack(tensors) if len(tensors) == len(per_layer) else None
