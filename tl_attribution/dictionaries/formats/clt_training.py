"""EleutherAI's clt-training (and sparsify's transcoders): one folder per layer with ``cfg.json``
and ``sae.safetensors``.

A coder reads at its layer, and its ``W_decs.k`` [feature, d_model] writes k layers above, each
with a separate bias: a layer's bias is the sum of those of all coders that write to it. With
``normalize_io`` a coder reads x · sqrt(d) / ``in_norm``, and what is written at its layer, by
itself and by others, is multiplied by ``out_norm`` / sqrt(d). ``post_encs.k`` is added to active
features before ``W_decs.k``, then ``post_enc_scales.k`` multiplies. Source: clt-training cf9821f,
``sparse_coder.py``, ``runner.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import TopK
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    below,
    by_layer,
    check_width,
    need,
    number_in,
    one_of,
    peek,
    read_json,
    same,
)
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

NAME = "clt-training"
NEEDS = "a folder for each layer (layers.0.mlp, …), each with cfg.json and sae.safetensors"

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
DEFAULTS: dict[str, Any] = {
    "activation": "topk",
    "transcode": False,
    "n_targets": 0,
    "normalize_io": False,
    "divide_cross_layer": False,
    "coalesce_topk": "none",
    "secondary_target_tied": False,
}
EXPECTED = {
    "activation": ("topk",),  # batchtopk files hold no threshold, groupmax is not a TopK
    "transcode": (True,),
    "coalesce_topk": ("none",),
    "secondary_target_tied": (False,),
}


class _Coder(NamedTuple):
    file: TensorFile
    config: dict[str, Any]
    targets: int

    def name(self, part: str, k: int) -> str:
        """A part's name for the target k layers above; coders with one target have no lists."""
        in_list = f"{part}s.{k}"
        return in_list if in_list in self.file else part

    def norm(self, end: str) -> float:
        """``in_norm`` / sqrt(d) or ``out_norm`` / sqrt(d)."""
        if not self.config["normalize_io"]:
            return 1.0
        return float(self.file.read(f"{end}_norm")) / self.config["d_in"] ** 0.5


def _folders(folder: Path) -> list[Path]:
    return [f.parent for f in below(folder, WEIGHTS) if "d_in" in peek(f.parent / CONFIG)]


def recognize(folder: Path) -> bool:
    """Whether the folder, or folders in it, hold sparse coders."""
    return bool(_folders(folder))


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT, or a set of transcoders where each has one target."""
    numbered = [(_number(coder_folder), coder_folder) for coder_folder in _folders(folder)]
    ordered = by_layer(numbered, folder, "coder")
    coders = [_coder(coder_folder) for coder_folder in ordered]
    cross_layer = any(coder.targets > 1 for coder in coders)
    layers = [_layer(coders, i) for i in range(len(coders))]
    k = same((coder.config["k"] for coder in coders), "k", folder)
    run = peek(folder / "config.json")
    mlp_names = all(coder_folder.name.endswith(".mlp") for coder_folder in ordered)
    at_mlp = mlp_names and not run.get("hookpoints_in")
    return DictionaryFiles(
        "cross-layer transcoder" if cross_layer else "transcoders",
        layers,
        TopK(k),
        "mlp.hook_in" if at_mlp else None,
        "mlp.hook_out" if at_mlp else None,
        run["model"] if isinstance(run.get("model"), str) else None,
    )


def _number(folder: Path) -> int:
    layer = number_in(folder.name, r"(\d+)")
    if layer is None:
        raise FormatError(f"{folder}: expected a folder name with the layer, such as layers.3.mlp")
    return layer


def _coder(folder: Path) -> _Coder:
    config = DEFAULTS | read_json(folder / CONFIG)
    need(config, folder / CONFIG, d_in=int, k=int, n_targets=int)
    for key, known in EXPECTED.items():
        one_of(config, key, folder / CONFIG, known)
    file = TensorFile(folder / WEIGHTS)
    check_width(file, "encoder.weight", 1, config["d_in"])
    return _Coder(file, config, max(1, config["n_targets"]))


def _layer(coders: list[_Coder], i: int) -> StoredLayer:
    coder = coders[i]
    file, targets = coder.file, coder.targets
    if i + targets > len(coders):
        raise FormatError(
            f"{file.path}: writes {targets} layers up, beyond the {len(coders)} of the folder"
        )
    gain = 1 / coder.norm("in")
    features = file.shape("encoder.weight")[0]
    names = [(coder.name("W_dec", k), _written(coders, i, k)) for k in range(targets)]
    offsets = [file.optional(coder.name("post_enc", k)) for k in range(targets)]
    return StoredLayer(
        StoredMatrix(file, "encoder.weight", row_scale=_scale(features, gain)),
        file.read("encoder.bias"),
        tuple(
            StoredMatrix(file, name, row_scale=_scale(features, gain, _feature_scale(coder, k)))
            for k, (name, gain) in enumerate(names)
        ),
        _bias(coders, i),
        _skip(coder, gain * coder.norm("out")),
        _offset(offsets),
    )


def _scale(features: int, gain: float, per_feature: Tensor | None = None) -> Tensor | None:
    if gain == 1.0:
        return per_feature
    return torch.full((features,), gain) if per_feature is None else per_feature * gain


def _feature_scale(coder: _Coder, k: int) -> Tensor | None:
    return coder.file.optional(coder.name("post_enc_scale", k))


def _written(coders: list[_Coder], i: int, k: int) -> float:
    """The factor of everything that coder i writes k layers above its layer."""
    target = coders[i + k]
    others = sum(s + coders[s].targets > i + k for s in range(i + k))
    divided = target.config["divide_cross_layer"] and k > 0
    return target.norm("out") / (max(1, others) if divided else 1)


def _bias(coders: list[_Coder], target: int) -> Tensor:
    writing = [s for s in range(target + 1) if s + coders[s].targets > target]
    return torch.stack(
        [
            coders[s].file.read(coders[s].name("b_dec", target - s))
            * _written(coders, s, target - s)
            for s in writing
        ]
    ).sum(0)


def _offset(offsets: list[Tensor | None]) -> Tensor | None:
    """Offsets [feature, written], zero for targets without one; None if there are none."""
    if all(offset is None or not offset.any() for offset in offsets):
        return None
    zeros = torch.zeros_like(next(offset for offset in offsets if offset is not None))
    return torch.stack([zeros if offset is None else offset for offset in offsets], 1)


def _skip(coder: _Coder, gain: float) -> StoredMatrix | None:
    """The skip of the unscaled x to the coder's layer. A skip to layers above is refused."""
    file, name = coder.file, coder.name("W_skip", 0)
    above = [f"W_skips.{k}" for k in range(1, coder.targets) if f"W_skips.{k}" in file]
    if crossing := [skip for skip in above if file.read(skip).any()]:
        raise FormatError(
            f"{file.path}: {', '.join(crossing)} skip to layers above their own, which this "
            "package cannot trace; train without skip_connection or without cross_layer"
        )
    if name not in file:
        return None
    return StoredMatrix(file, name, row_scale=_scale(file.shape(name)[0], gain))
