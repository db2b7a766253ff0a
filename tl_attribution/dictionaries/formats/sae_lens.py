"""SAELens's transcoders: one folder per layer, with ``cfg.json`` and ``sae_weights.safetensors``.

``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``W_skip`` [d_out, d_in]; ReLU, or JumpReLU that
is never active below zero; the skip reads the input itself. Source: sae-lens 6.54,
``saes/transcoder.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_attribution.dictionaries.formats import sae_lens_clt
from tl_attribution.dictionaries.formats.circuit_tracer import check_writable, threshold_of
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    below,
    block_hook,
    by_layer,
    number_in,
    one_of,
    peek,
    read_json,
    same,
    thresholds,
)
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.weights import TranscoderWeights
from tl_attribution.errors import FormatError

NAME = "sae-lens"
NEEDS = "a folder for each layer, each with cfg.json and sae_weights.safetensors"

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
EXPECTED = {
    "architecture": ARCHITECTURES,
    "normalize_activations": (None, "none", "expected_average_only_in"),  # folded in by SAELens
    "reshape_activations": (None, "none"),
    "apply_b_dec_to_input": (None, False),
    "activation_fn": (None, "relu"),
}


def _folders(folder: Path) -> list[Path]:
    weights = [path.parent for path in below(folder, WEIGHTS)]
    return [parent for parent in weights if "architecture" in peek(parent / CONFIG)]


def recognize(folder: Path) -> bool:
    """Whether the folder, or folders in it, hold transcoders of SAELens."""
    return bool(_folders(folder))


def read(folder: Path) -> DictionaryFiles:
    """Open a set of transcoders. Where ``hook_name`` has no layer it is in the folder's name, such
    as ``layer_3``."""
    numbered = [(_layer_number(f, read_json(f / CONFIG)), f) for f in _folders(folder)]
    ordered = by_layer(numbered, folder, "transcoder")
    configs = [read_json(layer_folder / CONFIG) for layer_folder in ordered]
    files = [TensorFile(layer_folder / WEIGHTS) for layer_folder in ordered]
    layers = [_layer(file, config) for file, config in zip(files, configs, strict=True)]
    names = {end: [block_hook(_hook_name(c, end))[1] for c in configs] for end in ("", "_out")}
    return DictionaryFiles(
        "transcoders",
        layers,
        thresholds([_threshold(file, config) for file, config in zip(files, configs, strict=True)]),
        same(names[""], "hook_name", folder),
        same(names["_out"], "hook_name_out", folder),
        same((_metadata(c, "model_name") for c in configs), "model_name", folder),
    )


def _metadata(config: dict[str, Any], key: str) -> Any:
    metadata = config.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}).get(key) or config.get(key)


def _hook_name(config: dict[str, Any], end: str) -> Any:
    return _metadata(config, f"hook_name{end}")


def _layer_number(folder: Path, config: dict[str, Any]) -> int:
    layer = block_hook(_hook_name(config, ""))[0]
    layer = number_in(folder.name, r"layer_(\d+)") if layer is None else layer
    if layer is None:
        raise FormatError(
            f"{folder / CONFIG}: hook_name={_hook_name(config, '')!r} has no layer, expected "
            "blocks.N.… (or a folder named layer_N)"
        )
    return layer


def _layer(file: TensorFile, config: dict[str, Any]) -> StoredLayer:
    config_file = file.path.parent / CONFIG
    for key, known in EXPECTED.items():
        one_of({key: None} | config, key, config_file, known)
    if config.get("d_in") != config.get("d_out"):
        raise FormatError(
            f"{config_file}: d_in={config.get('d_in')} and d_out={config.get('d_out')} differ; an "
            "MLP's transcoder reads and writes the same width"
        )
    skip = "skip" in config["architecture"]
    return StoredLayer(
        StoredMatrix(file, "W_enc", transposed=True),
        file.read("b_enc"),
        (StoredMatrix(file, "W_dec"),),
        file.read("b_dec"),
        StoredMatrix(file, "W_skip") if skip else None,
    )


def _threshold(file: TensorFile, config: dict[str, Any]) -> Tensor | None:
    return file.read("threshold") if "jumprelu" in config["architecture"] else None


def write(weights: TranscoderWeights, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``layer_0``, ``layer_1``, … each a folder that ``SAE.load_from_disk`` opens, whole or
    not at all; a CLT as one such folder. Raises InputError for what SAELens has no place for."""
    if weights.kind == "cross-layer transcoder":
        sae_lens_clt.write(weights, path, overwrite=overwrite)
        return
    check_writable(weights, NAME, skip=True)
    write_folder(path, NAME, lambda folder: _write_files(weights, folder), overwrite=overwrite)


def _write_files(weights: TranscoderWeights, folder: Path) -> None:
    for i, layer in enumerate(weights.layers):
        layer_folder = folder / f"layer_{i}"
        layer_folder.mkdir()
        tensors = {
            "W_enc": layer.W_enc.T,
            "b_enc": layer.b_enc,
            "W_dec": layer.W_dec[:, 0],
            "b_dec": layer.b_dec,
            "W_skip": layer.W_skip,
            "threshold": threshold_of(weights, i),
        }
        save_tensors(tensors, layer_folder / WEIGHTS, NAME)
        config = _config(weights, i, jumprelu=tensors["threshold"] is not None)
        (layer_folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _config(weights: TranscoderWeights, i: int, *, jumprelu: bool) -> dict[str, Any]:
    layer = weights.layers[i]
    skip = "skip_" if layer.W_skip is not None else ""
    return {
        "architecture": f"{'jumprelu_' if jumprelu else ''}{skip}transcoder",
        "d_in": weights.d_model,
        "d_sae": weights.n_features,
        "d_out": weights.d_model,
        "dtype": str(layer.b_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": sae_lens_clt.SINCE,
            "model_name": weights.model_name,
            "hook_name": f"blocks.{i}.{weights.feature_input_hook}",
            "hook_name_out": f"blocks.{i}.{weights.feature_output_hook}",
        },
    }
