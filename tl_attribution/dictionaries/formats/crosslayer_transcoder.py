"""Goreg12345/crosslayer-transcoder: ``config.yaml`` and ``checkpoint.safetensors``.

``encoder.W`` [layer, d_model, feature]; a CLT's ``decoder.W_t`` [source, feature, d_model] for each
target, a set of transcoders' ``decoder.W`` [layer, feature, d_model]. Standardisers, where they are
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
STANDARDISERS = (
    None,
    "Standardizer",
    "DimensionwiseInputStandardizer",
    "LayerwiseInputStandardizer",
)
OUTPUTS = (None, "Standardizer", "DimensionwiseOutputStandardizer", "LayerwiseOutputStandardizer")
NONLINEARITIES = ("ReLU", "JumpReLU", "PerLayerTopK", "BatchTopK", "PerLayerBatchTopK")


def recognize(folder: Path) -> bool:
    """Whether the config names the class of a model."""
    model = peek(folder / CONFIG).get("model")
    return isinstance(model, dict) and "class_path" in model


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT or a set of transcoders. The files don't say hooks."""
    where = folder / CONFIG
    model = read_yaml(where)["model"]
    one_of({"model": _class(model)}, "model", where, ["CrossLayerTranscoder"])
    parts = model.get("init_args") or {}
    said = {name: _class(part) for name, part in parts.items()}
    one_of(said, "nonlinearity", where, NONLINEARITIES)
    for name, known in (("input_standardizer", STANDARDISERS), ("output_standardizer", OUTPUTS)):
        one_of({name: None} | said, name, where, known)
    file = TensorFile(folder / WEIGHTS)
    n = layer_axis(file, "encoder.W")
    crossing = "decoder.W" not in file
    layers = [_layer(file, i, n, crossing) for i in range(n)]
    kind = "cross-layer transcoder" if crossing else "transcoders"
    return DictionaryFiles(kind, layers, _activation(file, parts["nonlinearity"], layers, where))


def _class(part: Any) -> str | None:
    path = part.get("class_path") if isinstance(part, dict) else None
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else None


def _standardiser(file: TensorFile, end: str, layer: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and std of a layer; 0 and 1 where there is no standardiser."""
    mean = file.optional(f"{end}_standardizer.mean")
    std = file.optional(f"{end}_standardizer.std")
    if mean is None or std is None:
        return torch.zeros(width), torch.ones(width)
    return mean[layer].expand(width).float(), std[layer].expand(width).float()


def _layer(file: TensorFile, i: int, n: int, crossing: bool) -> StoredLayer:
    width = file.shape("encoder.W")[1]
    mean, std = _standardiser(file, "input", i, width)
    folded = "input_standardizer.std" not in file
    encoder = StoredMatrix(
        file, "encoder.W", (i,), transposed=True, column_scale=None if folded else 1 / std
    )
    bias = file.read("encoder.b")[i]
    if mean.any():
        bias = (bias - encoder.whole().double() @ mean.double()).to(bias)
    decoders = [_decoder(file, i, t, width, crossing) for t in range(i, n if crossing else i + 1)]
    out_mean, out_std = _standardiser(file, "output", i, width)
    decoder_bias = file.read("decoder.b")[i] * out_std + out_mean
    return StoredLayer(encoder, bias, tuple(decoders), decoder_bias)


def _decoder(file: TensorFile, i: int, target: int, width: int, crossing: bool) -> StoredMatrix:
    scale = None
    if "output_standardizer.std" in file:
        scale = _standardiser(file, "output", target, width)[1]
    return StoredMatrix(
        file, f"decoder.W_{target}" if crossing else "decoder.W", (i,), column_scale=scale
    )


def _activation(
    file: TensorFile, nonlinearity: dict[str, Any], layers: list[StoredLayer], where: Path
) -> Activation:
    match _class(nonlinearity), nonlinearity.get("init_args") or {}:
        case "ReLU", _:
            return ReLU()
        case "JumpReLU", _:
            return thresholds(list(file.read("nonlinearity.theta")[0]))
        case "PerLayerTopK", {"k": int(k)}:
            return TopK(k)
        case (("BatchTopK" | "PerLayerBatchTopK"), _):
            kept = file.read("nonlinearity.threshold").expand(len(layers))
            return thresholds([one.expand(layers[0].shape[0]) for one in kept])
    raise FormatError(f"{where}: nonlinearity {nonlinearity} lacks its k")
