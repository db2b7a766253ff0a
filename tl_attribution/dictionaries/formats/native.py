"""Our own format: ``config.json`` and ``layer_0.safetensors``, ``layer_1.safetensors``, …

A layer's file holds ``W_enc`` [feature, d_model], ``b_enc``, ``W_dec`` [feature, written, d_model],
``b_dec`` and, where there are any, ``W_skip`` [out, in] and ``threshold``. Tensors are mapped: of
the decoders only the rows of active features are ever read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.activations import JumpReLU
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.transcoder import LayerWeights, Transcoder
from tl_attribution.dictionaries.transcoders import TranscoderSet
from tl_attribution.errors import FormatError, InputError

CONFIG = "config.json"
FORMAT = "tl-attribution dictionary"
VERSION = 1
KINDS: dict[str, type[Transcoder]] = {c.kind: c for c in (CrossLayerTranscoder, TranscoderSet)}
PARTS = ("W_enc", "b_enc", "W_dec", "b_dec")


def recognise(folder: Path) -> bool:
    """Whether the folder holds a dictionary in this format."""
    config = folder / CONFIG
    if not config.is_file():
        return False
    try:
        return json.loads(config.read_text()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return False


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.safetensors"


def write(dictionary: Transcoder, path: str | Path) -> None:
    """Write a dictionary whole or not at all; replaces one that is already there.

    Raises InputError if ``path`` exists and is anything else than a dictionary in this format.
    """
    folder = Path(path)
    if folder.exists() and not recognise(folder) and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not a dictionary of ours; choose an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        new.chmod(0o755)
        _write_files(dictionary, new)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            folder.replace(old)
            new.replace(folder)
            shutil.rmtree(old)
        else:
            new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_files(dictionary: Transcoder, folder: Path) -> None:
    for layer, weights in enumerate(dictionary.layers):
        tensors = {name: getattr(weights, name) for name in (*PARTS, "W_skip")}
        if isinstance(dictionary.activation, JumpReLU):
            tensors["threshold"] = dictionary.activation.threshold[layer]
        ready = {k: t.detach().cpu().contiguous() for k, t in tensors.items() if t is not None}
        save_file(ready, _layer_file(folder, layer))
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


def read(folder: Path, *, device: str | None, dtype: torch.dtype | None) -> Transcoder:
    """Open a dictionary. Raises FormatError if a file is missing, truncated or corrupt, or does not
    say what it must."""
    config = _config(folder)
    layers, thresholds = [], []
    for layer in range(config["n_layers"]):
        tensors = _layer(_layer_file(folder, layer), device, dtype)
        thresholds.append(tensors.pop("threshold", None))
        layers.append(LayerWeights(**tensors))
    stacked = None if None in thresholds else torch.stack(thresholds)
    dictionary = KINDS[config["kind"]](
        layers,
        activations.from_config(config["activation"], stacked),
        feature_input_hook=config["feature_input_hook"],
        feature_output_hook=config["feature_output_hook"],
        model_name=config["model_name"],
    )
    for name in ("n_features", "d_model"):
        if getattr(dictionary, name) != config[name]:
            raise FormatError(
                f"{folder}: config.json says {name}={config[name]}, the weights have "
                f"{getattr(dictionary, name)}"
            )
    return dictionary


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / CONFIG).read_text())
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
    config.setdefault("model_name", None)
    return config


def _layer(file: Path, device: str | None, dtype: torch.dtype | None) -> dict[str, Tensor]:
    if not file.is_file():
        raise FormatError(f"{file} is missing: the dictionary is not complete")
    try:
        with safe_open(file, framework="pt", device=device or "cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{file} is truncated or corrupt: {error}") from error
    lacking = [name for name in PARTS if name not in tensors]
    unknown = [name for name in tensors if name not in (*PARTS, "W_skip", "threshold")]
    if lacking or unknown:
        raise FormatError(f"{file}: lacks {lacking}, holds unknown {unknown}")
    return tensors if dtype is None else {k: t.to(dtype) for k, t in tensors.items()}
