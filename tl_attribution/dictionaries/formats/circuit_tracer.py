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

from tl_attribution.dictionaries.activations import BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats import gemma_scope
from tl_attribution.dictionaries.formats.common import (
    Found,
    by_layer,
    inside,
    number_in,
    one_of,
    peek,
    read_yaml,
    thresholds,
)
from tl_attribution.dictionaries.formats.writing import save_tensors, write_folder
from tl_attribution.dictionaries.layers import Layer, StoredLayer
from tl_attribution.dictionaries.stored import Stored
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.dictionaries.transcoders import TranscoderSet
from tl_attribution.errors import FormatError, InputError

NAME = "circuit-tracer"
NEEDS = "config.yaml with W_enc_0.safetensors and W_dec_0.safetensors, … or layer_0.safetensors, …"

CONFIG = "config.yaml"
CLT, SET = "cross_layer_transcoder", "transcoder_set"
THRESHOLD = "activation_function.threshold"
ACTIVATIONS = (None, "relu", "jumprelu", "topk")
"""What a set's config says of its activation."""


def recognise(folder: Path) -> bool:
    """Whether the folder holds a CLT or a set of transcoders as circuit-tracer has them."""
    config = peek(folder / CONFIG)
    if "model_kind" in config or "transcoders" in config:
        return True
    return (folder / "W_enc_0.safetensors").is_file() or (
        (folder / "layer_0.safetensors").is_file() and not (folder / "config.json").is_file()
    )


def read(folder: Path) -> Found:
    """Open a dictionary; without ``config.yaml`` its kind is seen from the files."""
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    clt_files = list(folder.glob("W_enc_*.safetensors"))
    config.setdefault("model_kind", CLT if clt_files else SET)
    one_of(config, "model_kind", folder / CONFIG, (CLT, SET))
    named = _named(folder, config)
    if config["model_kind"] == SET:
        found = _activated(_read_set(named or _numbered(folder, "layer")), config, folder)
    elif named:
        found = gemma_scope.clt([TensorFile(path) for path in named])
    else:
        found = _read_clt(folder)
    hooks = [config.get(key) for key in ("feature_input_hook", "feature_output_hook")]
    return found._replace(
        feature_input_hook=hooks[0], feature_output_hook=hooks[1], model_name=_model(config)
    )


def _activated(found: Found, config: dict[str, Any], folder: Path) -> Found:
    """The set with the activation that its config says; else the files' thresholds are it."""
    given = config.get("activation")
    said = given.lower().replace("_", "") if isinstance(given, str) else given
    one_of({"activation": said}, "activation", folder / CONFIG, ACTIVATIONS)
    if said == "relu":
        return found._replace(activation=ReLU())
    if said != "topk":
        return found
    k = config.get("k")
    if k is not None and (type(k) is not int or k < 1):
        raise FormatError(f"{folder / CONFIG}: k={k!r} is no number of features")
    return found._replace(activation=None if k is None else TopK(k, signed=True))


def _model(config: dict[str, Any]) -> str | None:
    name = config.get("model_name")
    return name if isinstance(name, str) else None


def _named(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Files that the config lists, one a layer: as names, or as older versions had it."""
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


def _read_clt(folder: Path) -> Found:
    layers, found = [], []
    n = len(_numbered(folder, "W_enc"))
    for i, path in enumerate(_numbered(folder, "W_enc")):
        file, decoder = TensorFile(path), TensorFile(folder / f"W_dec_{i}.safetensors")
        shape = decoder.shape(f"W_dec_{i}")
        if len(shape) != 3 or shape[1] != n - i:
            raise FormatError(
                f"{decoder.path}: W_dec_{i} is {shape}, expected [feature, {n - i} layers, d_model]"
                f" as the folder has {n} encoders"
            )
        decoders = [Stored(decoder, f"W_dec_{i}", (slice(None), k)) for k in range(n - i)]
        bias, decoder_bias = file.read(f"b_enc_{i}"), file.read(f"b_dec_{i}")
        layers.append(StoredLayer(Stored(file, f"W_enc_{i}"), bias, tuple(decoders), decoder_bias))
        found.append(file.optional(f"threshold_{i}"))
    return Found(CrossLayerTranscoder, layers, thresholds(found, rectified=False))


def _read_set(paths: list[Path]) -> Found:
    read = [_transcoder(TensorFile(path)) for path in paths]
    layers = [layer for layer, _ in read]
    return Found(TranscoderSet, layers, thresholds([t for _, t in read], rectified=False))


def _transcoder(file: TensorFile) -> tuple[StoredLayer, Tensor | None]:
    if "w_enc" in file or file.path.suffix == ".npz":
        return gemma_scope.transcoder(file)
    features, width = (*file.shape("W_enc"), 0, 0)[:2]
    # Releases before 0.2 kept the decoder as [d_model, feature].
    turned = file.shape("W_dec") == (width, features) != (features, width)
    layer = StoredLayer(
        Stored(file, "W_enc"),
        file.read("b_enc"),
        (Stored(file, "W_dec", transposed=turned),),
        file.read("b_dec"),
        Stored(file, "W_skip") if "W_skip" in file else None,
    )
    return layer, file.optional(THRESHOLD)


def write(dictionary: Transcoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write what circuit-tracer opens, whole or not at all; a window is filled up with zeros.

    Raises InputError for what the format has no place for: TopK, a CLT's skip, offsets.
    """
    is_clt = isinstance(dictionary, CrossLayerTranscoder)
    check_writable(dictionary, NAME, skip=not is_clt)
    write_folder(
        path, NAME, lambda folder: _write_files(dictionary, folder, is_clt), overwrite=overwrite
    )


def check_writable(dictionary: Transcoder, name: str, *, skip: bool) -> None:
    """Raise InputError for what a format of others has no place for."""
    layers = dictionary.layers
    lacks = {
        "TopK, which ranks features against each other": isinstance(dictionary.activation, TopK),
        "a linear skip": not skip and any(one.W_skip is not None for one in layers),
        "offsets of activations": any(one.offset is not None for one in layers),
    }
    if wrong := [what for what, is_so in lacks.items() if is_so]:
        raise InputError(
            f"{name} has no place for {' and '.join(wrong)}; save without format= to keep it"
        )


def threshold_of(dictionary: Transcoder, layer: int) -> Tensor | None:
    """A layer's JumpReLU thresholds, or None for ReLU."""
    match dictionary.activation:
        case JumpReLU(threshold):
            return threshold[layer]
        case BatchTopK(_, threshold):
            return torch.full((dictionary.n_features,), max(threshold, 0.0))
    return None


def _write_files(dictionary: Transcoder, folder: Path, is_clt: bool) -> None:
    import yaml

    for i, weights in enumerate(dictionary.layers):
        if is_clt:
            _write_clt_layer(folder, i, weights, dictionary)
        else:
            _write_transcoder(folder / f"layer_{i}.safetensors", weights, dictionary, i)
    name = dictionary.model_name
    config = {
        "model_name": name,
        "model_kind": CLT if is_clt else SET,
        "feature_input_hook": dictionary.feature_input_hook,
        "feature_output_hook": dictionary.feature_output_hook,
        "scan": name or "tl-attribution",
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))


def _write_clt_layer(folder: Path, i: int, weights: Layer, dictionary: Transcoder) -> None:
    encoder = {
        f"W_enc_{i}": weights.W_enc,
        f"b_enc_{i}": weights.b_enc,
        f"b_dec_{i}": weights.b_dec,
        f"threshold_{i}": threshold_of(dictionary, i),
    }
    save_tensors(encoder, folder / f"W_enc_{i}.safetensors", NAME)
    decoder = weights.W_dec
    beyond = dictionary.n_layers - i - weights.n_written
    if beyond:
        zeros = decoder.new_zeros(len(decoder), beyond, dictionary.d_model)
        decoder = torch.cat([decoder, zeros], 1)
    save_tensors({f"W_dec_{i}": decoder}, folder / f"W_dec_{i}.safetensors", NAME)


def _write_transcoder(file: Path, weights: Layer, dictionary: Transcoder, i: int) -> None:
    parts = {name: getattr(weights, name) for name in ("W_enc", "b_enc", "b_dec", "W_skip")}
    parts |= {"W_dec": weights.W_dec[:, 0], THRESHOLD: threshold_of(dictionary, i)}
    save_tensors(parts, file, NAME)
