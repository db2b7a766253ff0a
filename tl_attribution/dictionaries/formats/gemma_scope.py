"""Gemma Scope: transcoders of Gemma 2 (npz) and Gemma 3 (safetensors), and Gemma 3's CLTs.

One file per layer, in folders named ``layer_N``. Encoders are [d_model, feature], decoders
[feature, d_model], a CLT's [feature, layer, d_model] with nothing below its own layer; JumpReLU,
never active below zero; ``affine_skip_connection`` is [in, out]. Gemma 2's read the normalized
stream before the norm's weight; Gemma 3's read after it, as their config.json says. Sources: the
tutorials of the two releases; circuit-tracer 0.5.0 (whose reader of CLTs leaves out the last
layer); sae-lens 6.54 (``pretrained_sae_loaders.py``).
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    below,
    by_layer,
    number_in,
    peek,
    same,
    thresholds,
)
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

NAME = "Gemma Scope"
NEEDS = (
    "one params.npz, params.safetensors or params_layer_N.safetensors per layer, in folders layer_N"
)

HOOKS = {
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Hook names of places in Hugging Face's Gemma."""


def _files(folder: Path) -> list[Path]:
    return [f for suffix in ("npz", "safetensors") for f in below(folder, f"params*.{suffix}")]


def _layer_of(path: Path, folder: Path) -> int | None:
    return number_in(str(path.relative_to(folder.parent)), r"layer_(\d+)(?!.*layer_\d)")


def recognize(folder: Path) -> bool:
    """Whether the folder holds files named ``params`` that have a layer in their path."""
    return any(_layer_of(path, folder) is not None for path in _files(folder))


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT or a set of transcoders. Raises InputError for several in the folder."""
    numbered = [(n, f) for f in _files(folder) if (n := _layer_of(f, folder)) is not None]
    paths = by_layer(numbered, folder, "params file")
    files = [TensorFile(path) for path in paths]
    if files[0].path.suffix == ".npz":
        return _set(files)._replace(
            feature_input_hook="ln2.hook_normalized", feature_output_hook="hook_mlp_out"
        )
    contents = clt(files) if len(files[0].shape("w_dec")) == 3 else _set(files)
    configs = [peek(path.parent / "config.json") for path in paths]
    model = same((c.get("model_name") for c in configs), "model", folder)
    return contents._replace(
        feature_input_hook=_hook(configs, "in", folder),
        feature_output_hook=_hook(configs, "out", folder),
        model_name=_model(model) if isinstance(model, str) else None,
    )


def _model(name: str) -> str:
    """Hugging Face's name of a model: it has no ``-pt`` for the smallest."""
    name = name.replace("-v3-", "-3-")
    return "google/gemma-3-270m" if name == "gemma-3-270m-pt" else name


def _hook(configs: list[dict], end: str, folder: Path) -> str:
    """The hook of the place in the configs, or the release's default if they have none."""
    names = [name for config in configs for name in _names(config, f"hf_hook_point_{end}", folder)]
    places = (re.sub(r"^.*layers\.\d+\.", "", name) for name in names)
    default = "pre" if end == "in" else "post"
    place = same(places, f"hook {end}", folder) or f"{default}_feedforward_layernorm.output"
    if place not in HOOKS:
        raise FormatError(f"{folder}: reads or writes at {place!r}; expected {', '.join(HOOKS)}")
    return HOOKS[place]


def _names(config: dict, key: str, folder: Path) -> list[str]:
    """The hook names in a config: one, one per layer, or none, which is ``""``."""
    value = config.get(key) or ""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise FormatError(f"{folder}: {key} is {value!r:.80}; expected a hook, or one per layer")
    return names


def transcoder(file: TensorFile) -> tuple[StoredLayer, Tensor | None]:
    """One layer's transcoder of either release, and its thresholds."""
    encoder, decoder = ("w_enc", "w_dec") if "w_enc" in file else ("W_enc", "W_dec")
    return _layer(file, encoder, (StoredMatrix(file, decoder),)), file.read("threshold")


def _layer(file: TensorFile, encoder: str, decoders: tuple[StoredMatrix, ...]) -> StoredLayer:
    skip = "affine_skip_connection"
    return StoredLayer(
        StoredMatrix(file, encoder, transposed=True),
        file.read("b_enc"),
        decoders,
        file.read("b_dec"),
        StoredMatrix(file, skip, transposed=True) if skip in file else None,
    )


def _set(files: list[TensorFile]) -> DictionaryFiles:
    read = [transcoder(file) for file in files]
    return DictionaryFiles(
        "transcoders", [layer for layer, _ in read], thresholds([t for _, t in read])
    )


def clt(files: list[TensorFile]) -> DictionaryFiles:
    """A CLT of Gemma Scope 2: one file per layer, in order."""
    layers = []
    for i, file in enumerate(files):
        shape = file.shape("w_dec")
        if len(shape) != 3 or shape[1] != len(files):
            raise FormatError(
                f"{file.path}: w_dec is {shape}, expected [feature, layer, d_model] with the "
                f"{len(files)} layers that there are files for"
            )
        parts = [StoredMatrix(file, "w_dec", (slice(None), t)) for t in range(i, len(files))]
        layers.append(_layer(file, "w_enc", tuple(parts)))
    return DictionaryFiles(
        "cross-layer transcoder", layers, thresholds([f.read("threshold") for f in files])
    )
