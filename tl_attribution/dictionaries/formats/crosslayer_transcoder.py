"""Goreg12345/crosslayer-transcoder: ``config.yaml`` and ``checkpoint.safetensors``.

``encoder.W`` [layer, d_model, feature]; a CLT's ``decoder.W_t`` [source, feature, d_model] for each
target, a set of transcoders' ``decoder.W`` [layer, feature, d_model]. Standardizers, where they are
not yet folded in: (x − mean) / std in, y · std + mean out. JumpReLU is never active below zero;
BatchTopK is used with the threshold it kept. Source: crosslayer-transcoder ae29e75, ``model/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, ReLU, TopK
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    layer_axis,
    one_of,
    peek,
    read_yaml,
    thresholds,
)
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

NAME = "crosslayer-transcoder"
NEEDS = "config.yaml with model.class_path, and checkpoint.safetensors"

CONFIG, WEIGHTS = "config.yaml", "checkpoint.safetensors"
INPUT_STANDARDIZERS = (
    None,
    "Standardizer",
    "DimensionwiseInputStandardizer",
    "LayerwiseInputStandardizer",
)
OUTPUT_STANDARDIZERS = (
    None,
    "Standardizer",
    "DimensionwiseOutputStandardizer",
    "LayerwiseOutputStandardizer",
)
NONLINEARITIES = ("ReLU", "JumpReLU", "PerLayerTopK", "BatchTopK", "PerLayerBatchTopK")


def recognize(folder: Path) -> bool:
    """Whether the config names the class of a model."""
    model = peek(folder / CONFIG).get("model")
    return isinstance(model, dict) and "class_path" in model


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT or a set of transcoders. The files don't have the hooks."""
    config_file = folder / CONFIG
    model = read_yaml(config_file)["model"]
    one_of({"model": _class(model)}, "model", config_file, ["CrossLayerTranscoder"])
    parts = model.get("init_args") or {}
    classes = {name: _class(part) for name, part in parts.items()}
    one_of(classes, "nonlinearity", config_file, NONLINEARITIES)
    for end, known in (("input", INPUT_STANDARDIZERS), ("output", OUTPUT_STANDARDIZERS)):
        name = f"{end}_standardizer"
        one_of({name: None} | classes, name, config_file, known)
    file = TensorFile(folder / WEIGHTS)
    n = layer_axis(file, "encoder.W")
    cross_layer = "decoder.W" not in file
    layers = [_layer(file, i, n, cross_layer) for i in range(n)]
    kind = "cross-layer transcoder" if cross_layer else "transcoders"
    activation = _activation(file, parts["nonlinearity"], layers, config_file)
    return DictionaryFiles(kind, layers, activation)


def _class(part: Any) -> str | None:
    path = part.get("class_path") if isinstance(part, dict) else None
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else None


def _standardizer(file: TensorFile, end: str, layer: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and std of a layer; 0 and 1 where there is no standardizer."""
    mean = file.optional(f"{end}_standardizer.mean")
    std = file.optional(f"{end}_standardizer.std")
    if mean is None or std is None:
        return torch.zeros(width), torch.ones(width)
    return mean[layer].expand(width).float(), std[layer].expand(width).float()


def _layer(file: TensorFile, i: int, n: int, cross_layer: bool) -> StoredLayer:
    width = file.shape("encoder.W")[1]
    mean, std = _standardizer(file, "input", i, width)
    folded = "input_standardizer.std" not in file
    encoder = StoredMatrix(
        file, "encoder.W", (i,), transposed=True, column_scale=None if folded else 1 / std
    )
    bias = file.read("encoder.b")[i]
    if mean.any():
        bias = (bias - encoder.whole().double() @ mean.double()).to(bias)
    targets = range(i, n if cross_layer else i + 1)
    decoders = [_decoder(file, i, target, width, cross_layer) for target in targets]
    out_mean, out_std = _standardizer(file, "output", i, width)
    decoder_bias = file.read("decoder.b")[i] * out_std + out_mean
    return StoredLayer(encoder, bias, tuple(decoders), decoder_bias)


def _decoder(file: TensorFile, i: int, target: int, width: int, cross_layer: bool) -> StoredMatrix:
    scale = None
    if "output_standardizer.std" in file:
        scale = _standardizer(file, "output", target, width)[1]
    return StoredMatrix(
        file, f"decoder.W_{target}" if cross_layer else "decoder.W", (i,), column_scale=scale
    )


def _activation(
    file: TensorFile, nonlinearity: dict[str, Any], layers: list[StoredLayer], config_file: Path
) -> Activation:
    match _class(nonlinearity), nonlinearity.get("init_args") or {}:
        case "ReLU", _:
            return ReLU()
        case "JumpReLU", _:
            return thresholds(list(file.read("nonlinearity.theta")[0]))
        case "PerLayerTopK", {"k": int(k)}:
            return TopK(k)
        case (("BatchTopK" | "PerLayerBatchTopK"), _):
            per_layer = file.read("nonlinearity.threshold").expand(len(layers))
            return thresholds([threshold.expand(layers[0].shape[0]) for threshold in per_layer])
    raise FormatError(f"{config_file}: nonlinearity {nonlinearity} lacks its k")
