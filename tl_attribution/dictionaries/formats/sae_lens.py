"""SAELens' transcoders: a folder a layer, each with ``cfg.json`` and ``sae_weights.safetensors``.

``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``W_skip`` [d_out, d_in]; ReLU, or JumpReLU that
is never active below zero; the skip reads the input itself. Source: sae-lens 6.54,
``saes/transcoder.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats import sae_lens_clt
from tl_attribution.dictionaries.formats.circuit_tracer import check_writable, threshold_of
from tl_attribution.dictionaries.formats.common import (
    Found,
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
from tl_attribution.dictionaries.layers import Layer, StoredLayer
from tl_attribution.dictionaries.stored import Stored
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.transcoders import TranscoderSet
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
    return [one for one in weights if "architecture" in peek(one / CONFIG)]


def recognise(folder: Path) -> bool:
    """Whether the folder, or folders in it, are SAELens'."""
    return bool(_folders(folder))


def read(folder: Path) -> Found:
    """Open a set of transcoders. A folder without its layer's number in ``hook_name`` has it in its
    own name: ``layer_3``."""
    folders = _folders(folder)
    numbered = [(_layer_number(one, read_json(one / CONFIG)), one) for one in folders]
    ordered = by_layer(numbered, folder, "transcoder")
    configs = [read_json(one / CONFIG) for one in ordered]
    files = [TensorFile(one / WEIGHTS) for one in ordered]
    layers = [_layer(file, config) for file, config in zip(files, configs, strict=True)]
    names = {end: [block_hook(_said(c, end))[1] for c in configs] for end in ("", "_out")}
    return Found(
        TranscoderSet,
        layers,
        thresholds([_threshold(file, config) for file, config in zip(files, configs, strict=True)]),
        same(names[""], "hook_name", folder),
        same(names["_out"], "hook_name_out", folder),
        same((_metadata(c, "model_name") for c in configs), "model_name", folder),
    )


def _metadata(config: dict[str, Any], key: str) -> Any:
    metadata = config.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}).get(key) or config.get(key)


def _said(config: dict[str, Any], end: str) -> Any:
    return _metadata(config, f"hook_name{end}")


def _layer_number(folder: Path, config: dict[str, Any]) -> int:
    layer = block_hook(_said(config, ""))[0]
    layer = number_in(folder.name, r"layer_(\d+)") if layer is None else layer
    if layer is None:
        raise FormatError(
            f"{folder / CONFIG}: hook_name={_said(config, '')!r} does not say a layer, expected "
            "blocks.N.… (or a folder named layer_N)"
        )
    return layer


def _layer(file: TensorFile, config: dict[str, Any]) -> StoredLayer:
    where = file.path.parent / CONFIG
    for key, known in EXPECTED.items():
        one_of({key: None} | config, key, where, known)
    if config.get("d_in") != config.get("d_out"):
        raise FormatError(
            f"{where}: d_in={config.get('d_in')} and d_out={config.get('d_out')} differ; an MLP's "
            "transcoder reads and writes the same width"
        )
    skip = "skip" in config["architecture"]
    return StoredLayer(
        Stored(file, "W_enc", transposed=True),
        file.read("b_enc"),
        (Stored(file, "W_dec"),),
        file.read("b_dec"),
        Stored(file, "W_skip") if skip else None,
    )


def _threshold(file: TensorFile, config: dict[str, Any]) -> Tensor | None:
    return file.read("threshold") if "jumprelu" in config["architecture"] else None


def write(dictionary: Transcoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write ``layer_0``, ``layer_1``, … each a folder that ``SAE.load_from_disk`` opens, whole or
    not at all; a CLT as one such folder. Raises InputError for what SAELens has no place for."""
    if isinstance(dictionary, CrossLayerTranscoder):
        sae_lens_clt.write(dictionary, path, overwrite=overwrite)
        return
    check_writable(dictionary, NAME, skip=True)
    write_folder(path, NAME, lambda folder: _write_files(dictionary, folder), overwrite=overwrite)


def _write_files(dictionary: Transcoder, folder: Path) -> None:
    for i, weights in enumerate(dictionary.layers):
        into = folder / f"layer_{i}"
        into.mkdir()
        tensors = {
            "W_enc": weights.W_enc.T,
            "b_enc": weights.b_enc,
            "W_dec": weights.W_dec[:, 0],
            "b_dec": weights.b_dec,
            "W_skip": weights.W_skip,
            "threshold": threshold_of(dictionary, i),
        }
        save_tensors(tensors, into / WEIGHTS, NAME)
        config = _config(dictionary, i, weights, tensors["threshold"] is not None)
        (into / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _config(dictionary: Transcoder, i: int, weights: Layer, jumps: bool) -> dict[str, Any]:
    skip = "skip_" if weights.W_skip is not None else ""
    return {
        "architecture": f"{'jumprelu_' if jumps else ''}{skip}transcoder",
        "d_in": dictionary.d_model,
        "d_sae": dictionary.n_features,
        "d_out": dictionary.d_model,
        "dtype": str(weights.b_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": sae_lens_clt.SINCE,
            "model_name": dictionary.model_name,
            "hook_name": f"blocks.{i}.{dictionary.feature_input_hook}",
            "hook_name_out": f"blocks.{i}.{dictionary.feature_output_hook}",
        },
    }
