"""circuit-tracer's formats: a CLT (``W_enc_i``, ``W_dec_i``), or transcoders (``layer_i``).

``config.yaml`` says the kind and the hooks. As circuit-tracer computes them: ``W_enc`` [feature,
d_model]; a CLT's ``W_dec_i`` [feature, written, d_model], a transcoder's [feature, d_model];
JumpReLU keeps what exceeds the threshold, be it negative, and TopK, which a set has where its
config says ``activation: topk``, the ``k`` largest; ``W_skip`` is [out, in]. A CLT's skip has no
place in this format. Source: circuit-tracer 0.5.0 and, for TopK, 4b1b491: ``transcoder/`` and
``utils/hf_utils.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.formats import gemma_scope
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    by_layer,
    inside,
    number_in,
    one_of,
    peek,
    read_yaml,
    thresholds,
)
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.weights import TranscoderWeights
from tl_attribution.errors import FormatError, InputError

NAME = "circuit-tracer"
NEEDS = "config.yaml with W_enc_0.safetensors and W_dec_0.safetensors, … or layer_0.safetensors, …"

CONFIG = "config.yaml"
CLT, SET = "cross_layer_transcoder", "transcoder_set"
THRESHOLD = "activation_function.threshold"
ACTIVATIONS = (None, "relu", "jumprelu", "topk")
"""A set's ``activation`` in its config, lower-case and without ``_``."""


def recognize(folder: Path) -> bool:
    """Whether the folder holds a CLT or a set of transcoders of circuit-tracer."""
    config = peek(folder / CONFIG)
    if "model_kind" in config or "transcoders" in config:
        return True
    return (folder / "W_enc_0.safetensors").is_file() or (
        (folder / "layer_0.safetensors").is_file() and not (folder / "config.json").is_file()
    )


def read(folder: Path) -> DictionaryFiles:
    """Open a dictionary; without ``config.yaml`` its kind follows from the file names."""
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    clt_files = list(folder.glob("W_enc_*.safetensors"))
    config.setdefault("model_kind", CLT if clt_files else SET)
    one_of(config, "model_kind", folder / CONFIG, (CLT, SET))
    named = _named(folder, config)
    if config["model_kind"] == SET:
        files = _read_set(named or _numbered(folder, "layer"))
        files = files._replace(activation=_activation(files.activation, config, folder))
    elif named:
        files = gemma_scope.clt([TensorFile(path) for path in named])
    else:
        files = _read_clt(folder)
    return files._replace(
        feature_input_hook=config.get("feature_input_hook"),
        feature_output_hook=config.get("feature_output_hook"),
        model_name=_model(config),
    )


def _activation(
    default: Activation | None, config: dict[str, Any], folder: Path
) -> Activation | None:
    """The activation of a set by its config; None for a TopK of unknown k. A set whose config has
    none has the one of its files' thresholds, ``default``."""
    name = config.get("activation")
    name = name.lower().replace("_", "") if isinstance(name, str) else name
    one_of({"activation": name}, "activation", folder / CONFIG, ACTIVATIONS)
    if name == "relu":
        return ReLU()
    if name != "topk":
        return default
    k = config.get("k")
    if k is not None and (type(k) is not int or k < 1):
        raise FormatError(f"{folder / CONFIG}: expected a number of features as k, got k={k!r}")
    return None if k is None else TopK(k, signed=True)


def _model(config: dict[str, Any]) -> str | None:
    name = config.get("model_name")
    return name if isinstance(name, str) else None


def _named(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Files that the config lists, one per layer: as names, or as older versions list them."""
    entries = config.get("transcoders") or []
    if not isinstance(entries, list):
        raise FormatError(
            f"{folder / CONFIG}: transcoders is {entries!r}, expected a list of files"
        )
    if all(isinstance(entry, dict) for entry in entries):
        numbered = [(e.get("layer", -1), inside(folder, e.get("filepath"))) for e in entries]
        return by_layer(numbered, folder, "file") if numbered else []
    return [inside(folder, entry) for entry in entries]


def _numbered(folder: Path, prefix: str) -> list[Path]:
    files = folder.glob(f"{prefix}_*.safetensors")
    pairs = ((number_in(f.name, rf"^{prefix}_(\d+)\.safetensors$"), f) for f in files)
    return by_layer([(n, f) for n, f in pairs if n is not None], folder, f"{prefix}_… file")


def _read_clt(folder: Path) -> DictionaryFiles:
    layers, layer_thresholds = [], []
    n = len(_numbered(folder, "W_enc"))
    for i, path in enumerate(_numbered(folder, "W_enc")):
        file, decoder = TensorFile(path), TensorFile(folder / f"W_dec_{i}.safetensors")
        shape = decoder.shape(f"W_dec_{i}")
        if len(shape) != 3 or shape[1] != n - i:
            raise FormatError(
                f"{decoder.path}: W_dec_{i} is {shape}, expected [feature, {n - i} layers, d_model]"
                f" as the folder has {n} encoders"
            )
        decoders = [StoredMatrix(decoder, f"W_dec_{i}", (slice(None), k)) for k in range(n - i)]
        bias, decoder_bias = file.read(f"b_enc_{i}"), file.read(f"b_dec_{i}")
        layers.append(
            StoredLayer(StoredMatrix(file, f"W_enc_{i}"), bias, tuple(decoders), decoder_bias)
        )
        layer_thresholds.append(file.optional(f"threshold_{i}"))
    return DictionaryFiles(
        "cross-layer transcoder", layers, thresholds(layer_thresholds, rectified=False)
    )


def _read_set(paths: list[Path]) -> DictionaryFiles:
    read = [_transcoder(TensorFile(path)) for path in paths]
    layers = [layer for layer, _ in read]
    return DictionaryFiles("transcoders", layers, thresholds([t for _, t in read], rectified=False))


def _transcoder(file: TensorFile) -> tuple[StoredLayer, Tensor | None]:
    if "w_enc" in file or file.path.suffix == ".npz":
        return gemma_scope.transcoder(file)
    features, width = (*file.shape("W_enc"), 0, 0)[:2]
    # Releases before 0.2 kept the decoder as [d_model, feature].
    transposed = file.shape("W_dec") == (width, features) != (features, width)
    layer = StoredLayer(
        StoredMatrix(file, "W_enc"),
        file.read("b_enc"),
        (StoredMatrix(file, "W_dec", transposed=transposed),),
        file.read("b_dec"),
        StoredMatrix(file, "W_skip") if "W_skip" in file else None,
    )
    return layer, file.optional(THRESHOLD)


def write(weights: TranscoderWeights, path: str | Path, *, overwrite: bool = False) -> None:
    """Write what circuit-tracer opens, whole or not at all; a window is filled up with zeros.

    Raises InputError for what the format has no place for: TopK, a CLT's skip, offsets.
    """
    check_writable(weights, NAME, skip=weights.kind == "transcoders")
    write_folder(path, NAME, lambda folder: _write_files(weights, folder), overwrite=overwrite)


def check_writable(weights: TranscoderWeights, name: str, *, skip: bool) -> None:
    """Raise InputError for what a format of others has no place for; ``skip``: it has a place for
    linear skips."""
    layers = weights.layers
    lacks = {
        "TopK, which ranks features against each other": isinstance(weights.activation, TopK),
        "a linear skip": not skip and any(layer.W_skip is not None for layer in layers),
        "offsets of activations": any(layer.offset is not None for layer in layers),
    }
    if unfit := [part for part, is_there in lacks.items() if is_there]:
        raise InputError(
            f"{name} has no place for {' and '.join(unfit)}; save without format= to keep it"
        )


def threshold_of(weights: TranscoderWeights, layer: int) -> Tensor | None:
    """A layer's JumpReLU thresholds, or None for ReLU."""
    match weights.activation:
        case JumpReLU(threshold):
            return threshold[layer]
        case BatchTopK(_, threshold):
            return torch.full((weights.n_features,), max(threshold, 0.0))
    return None


def _write_files(weights: TranscoderWeights, folder: Path) -> None:
    import yaml

    is_clt = weights.kind == "cross-layer transcoder"
    write_layer = _write_clt_layer if is_clt else _write_transcoder
    for i in range(weights.n_layers):
        write_layer(folder, weights, i)
    name = weights.model_name
    config = {
        "model_name": name,
        "model_kind": CLT if is_clt else SET,
        "feature_input_hook": weights.feature_input_hook,
        "feature_output_hook": weights.feature_output_hook,
        "scan": name or "tl-attribution",
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))


def _write_clt_layer(folder: Path, weights: TranscoderWeights, i: int) -> None:
    layer = weights.layers[i]
    encoder = {
        f"W_enc_{i}": layer.W_enc,
        f"b_enc_{i}": layer.b_enc,
        f"b_dec_{i}": layer.b_dec,
        f"threshold_{i}": threshold_of(weights, i),
    }
    save_tensors(encoder, folder / f"W_enc_{i}.safetensors", NAME)
    decoder = layer.W_dec
    beyond_window = weights.n_layers - i - layer.n_written
    if beyond_window:
        zeros = decoder.new_zeros(len(decoder), beyond_window, weights.d_model)
        decoder = torch.cat([decoder, zeros], 1)
    save_tensors({f"W_dec_{i}": decoder}, folder / f"W_dec_{i}.safetensors", NAME)


def _write_transcoder(folder: Path, weights: TranscoderWeights, i: int) -> None:
    layer = weights.layers[i]
    tensors = {name: getattr(layer, name) for name in ("W_enc", "b_enc", "b_dec", "W_skip")}
    tensors |= {"W_dec": layer.W_dec[:, 0], THRESHOLD: threshold_of(weights, i)}
    save_tensors(tensors, folder / f"layer_{i}.safetensors", NAME)
