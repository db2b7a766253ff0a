"""Our own format: ``config.json`` and ``layer_0.safetensors``, ``layer_1.safetensors``, …

A layer's file holds ``W_enc`` [feature, d_model], ``b_enc``, ``W_dec`` [feature, written, d_model],
``b_dec`` and, where there are any, ``W_skip`` [out, in], ``threshold``, ``offset`` [feature,
written] and ``rank`` (what TopK ranks by besides the pre-activation). Of the decoders only the rows
of active features are ever read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.activations import JumpReLU, TopK
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats.common import Found, peek, read_json
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored import Stored
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.transcoders import TranscoderSet
from tl_attribution.errors import FormatError

NAME = "tl-attribution"
NEEDS = "config.json and layer_0.safetensors, layer_1.safetensors, …"

CONFIG = "config.json"
FORMAT = "tl-attribution dictionary"
VERSION = 1
KINDS: dict[str, type[Transcoder]] = {c.kind: c for c in (CrossLayerTranscoder, TranscoderSet)}
PARTS = ("W_enc", "b_enc", "W_dec", "b_dec")
MORE = ("W_skip", "offset")
BY_FEATURE = ("threshold", "rank")


def recognise(folder: Path) -> bool:
    """Whether the folder holds a dictionary in this format."""
    return peek(folder / CONFIG).get("format") == FORMAT


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.safetensors"


def write(dictionary: Transcoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a dictionary as :func:`.writing.write_folder` does, and raising what that raises."""
    write_folder(path, NAME, lambda folder: _write_files(dictionary, folder), overwrite=overwrite)


def _write_files(dictionary: Transcoder, folder: Path) -> None:
    for layer, weights in enumerate(dictionary.layers):
        tensors = {name: getattr(weights, name) for name in (*PARTS, *MORE)}
        match dictionary.activation:
            case JumpReLU(threshold):
                tensors["threshold"] = threshold[layer]
            case TopK(_, rank) if rank is not None:
                tensors["rank"] = rank[layer]
        save_tensors(tensors, _layer_file(folder, layer), NAME)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "kind": dictionary.kind,
        "n_layers": dictionary.n_layers,
        "n_features": dictionary.n_features,
        "d_model": dictionary.d_model,
        "feature_input_hook": dictionary.feature_input_hook,
        "feature_output_hook": dictionary.feature_output_hook,
        "model_name": dictionary.model_name,
        "activation": activations.to_config(dictionary.activation),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read(folder: Path) -> Found:
    """Open a dictionary. Raises FormatError if a file is missing, truncated or corrupt, or does not
    say what it must."""
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
    return Found(
        KINDS[config["kind"]],
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
    needed = {
        "kind": str,
        "n_layers": int,
        "n_features": int,
        "d_model": int,
        "feature_input_hook": str,
        "feature_output_hook": str,
        "activation": dict,
    }
    wrong = [k for k, kind in needed.items() if not isinstance(config.get(k), kind)]
    if wrong or config["kind"] not in KINDS or config["n_layers"] < 1:
        raise FormatError(
            f"{folder / CONFIG} lacks or misstates {', '.join(wrong) or 'kind or n_layers'}; "
            f"kind is one of {', '.join(map(repr, KINDS))}"
        )
    return config


def _open(path: Path) -> TensorFile:
    file = TensorFile(path)
    lacking = [name for name in PARTS if name not in file]
    unknown = [name for name in file.infos if name not in (*PARTS, *MORE, *BY_FEATURE)]
    if lacking or unknown:
        raise FormatError(f"{path}: lacks {lacking}, holds unknown {unknown}")
    return file


def _layer(file: TensorFile) -> StoredLayer:
    shape = file.shape("W_dec")
    if len(shape) != 3:
        raise FormatError(f"{file.path}: W_dec is {shape}, expected [feature, written, d_model]")
    return StoredLayer(
        Stored(file, "W_enc"),
        file.read("b_enc"),
        tuple(Stored(file, "W_dec", (slice(None), k)) for k in range(shape[1])),
        file.read("b_dec"),
        Stored(file, "W_skip") if "W_skip" in file else None,
        file.optional("offset"),
    )


def _stacked(found: list[Tensor | None]) -> Tensor | None:
    tensors = [tensor for tensor in found if tensor is not None]
    return torch.stack(tensors) if len(tensors) == len(found) else None
