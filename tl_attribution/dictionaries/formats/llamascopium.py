"""Llamascopium (Language-Model-SAEs): a CLT's ``config.json`` and ``sae_weights.safetensors``.

``W_E`` [layer, d_model, feature], ``W_D.t`` [source, feature, d_model] for each target. With
``norm_activation: dataset-wise`` activations are scaled to sqrt(d) / their average norm by hook,
which is folded into the weights here: feature activations are as its ``encode`` gives them. With
``sparsity_include_decoder_norm`` the activation function sees the pre-activation times the norm of
all the feature's decoders, which are then read once when the dictionary is opened. Source:
llamascopium 2.0.0b34, ``models/clt.py``, ``models/sparse_dictionary.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    block_hook,
    check_width,
    need,
    one_of,
    peek,
    read_json,
    same,
)
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

NAME = "Llamascopium"
NEEDS = 'config.json with "sae_type": "clt", and sae_weights.safetensors'

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
THRESHOLD = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm"


def recognize(folder: Path) -> bool:
    """Whether the config is one of Llamascopium."""
    return "sae_type" in peek(folder / CONFIG)


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT."""
    config_file = folder / CONFIG
    config = read_json(config_file)
    one_of(config, "sae_type", config_file, ["clt"])
    need(config, config_file, d_model=int, hook_points_in=list, hook_points_out=list)
    act = str(config.get("act_fn")).lower()
    if act in ("batchtopk", "layertopk", "batchlayertopk"):
        raise FormatError(
            f"{config_file}: {act} ranks features over layers or a batch, so that a layer's "
            "activations are not defined by what it reads; train with topk or jumprelu"
        )
    one_of({"act_fn": act}, "act_fn", config_file, ("relu", "jumprelu", "topk"))
    one_of(config, "norm_activation", config_file, ("inference", "dataset-wise"))
    file = TensorFile(folder / WEIGHTS)
    n = len(config["hook_points_in"])
    if file.shape("W_E")[0] != n or len(config["hook_points_out"]) != n:
        raise FormatError(
            f"{folder}: {n} hook_points_in and {len(config['hook_points_out'])} hook_points_out "
            f"for {file.shape('W_E')[0]} layers of weights"
        )
    check_width(file, "W_E", 1, config["d_model"])
    layers = [_layer(file, config, i, n) for i in range(n)]
    hooks = [_hook(config[f"hook_points_{end}"], config_file) for end in ("in", "out")]
    return DictionaryFiles(
        "cross-layer transcoder", layers, _activation(file, config, act, n), *hooks
    )


def _hook(names: list[Any], config_file: Path) -> str | None:
    """The hook that the layers share; None unless there is one name per layer, in order."""
    hooks = [block_hook(name) for name in names]
    if [layer for layer, _ in hooks] != list(range(len(hooks))):
        return None
    return same((hook for _, hook in hooks), "hooks", config_file)


def _factor(file: TensorFile, config: dict[str, Any], end: str, layer: int) -> float:
    """The factor that activations at a hook are multiplied by."""
    if config["norm_activation"] == "inference":
        return 1.0
    name = f"{NORM}.{config[f'hook_points_{end}'][layer]}"
    norm = float(file.read(name))
    if not 0 < norm < float("inf"):
        raise FormatError(
            f"{file.path}: {name}={norm} is not an average norm; it was saved before one was set"
        )
    return config["d_model"] ** 0.5 / norm


def _layer(file: TensorFile, config: dict[str, Any], i: int, n: int) -> StoredLayer:
    read = _factor(file, config, "in", i)
    written = [_factor(file, config, "out", t) for t in range(n)]
    return StoredLayer(
        StoredMatrix(file, "W_E", (i,), transposed=True, column_scale=_scale(config, read)),
        file.read("b_E")[i],
        tuple(
            StoredMatrix(file, f"W_D.{t}", (i,), column_scale=_scale(config, 1 / written[t]))
            for t in range(i, n)
        ),
        file.read(f"b_D.{i}") / written[i],
    )


def _scale(config: dict[str, Any], factor: float) -> Tensor | None:
    return None if factor == 1.0 else torch.full((config["d_model"],), factor)


def _activation(file: TensorFile, config: dict[str, Any], act: str, n: int) -> Activation:
    if act == "relu":
        return ReLU()
    with_norms = config.get("sparsity_include_decoder_norm", True)
    norms = _decoder_norms(file, n) if with_norms else None
    if act == "topk":
        need(config, file.path.parent / CONFIG, top_k=int)
        return TopK(config["top_k"], norms)
    threshold = file.read(THRESHOLD).float().exp()
    return JumpReLU(threshold if norms is None else threshold / norms)


def _decoder_norms(file: TensorFile, n: int) -> Tensor:
    """The norm of all stored decoders of a feature together [layer, feature]."""
    squares = torch.zeros(n, file.shape("b_E")[1])
    for target in range(n):
        for source in range(target + 1):
            part = file.mapped(f"W_D.{target}")[source]
            squares[source] += part.float().square().sum(-1)
    return squares.sqrt()
