"""curt-tigges/crosslayer-coding: ``cfg.json``, one safetensors file, perhaps ``norm_stats.json``.

``decoders.s->t`` [d_model, feature], each with a separate bias; tied variants have one decoder per
source (``per_source``) or target (``per_target``), with offsets and scales by target. The model
works on activations normalized as the config says (``mean_std``: (x − mean) / (std + 1e-6);
``sqrt_d_model``: x · sqrt(d)); here that is folded into the weights. JumpReLU keeps what is at
least exp(``log_threshold``). TopK and BatchTopK rank all layers of a batch at once: such files are
converted by their own script first. Source: crosslayer-coding 9499108, ``clt/models/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, JumpReLU, ReLU
from tl_attribution.dictionaries.formats.common import (
    DictionaryFiles,
    block_hook,
    check_width,
    need,
    one_of,
    peek,
    read_json,
)
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.stored_matrix import StoredMatrix
from tl_attribution.dictionaries.tensor_files import TensorFile, listed
from tl_attribution.errors import FormatError

NAME = "crosslayer-coding"
NEEDS = "cfg.json with num_features and num_layers, and one safetensors file (norm_stats.json too)"

CONFIG, STATS = "cfg.json", "norm_stats.json"
FIRST = ("model.safetensors", "clt.safetensors", "clt_checkpoint_latest.safetensors")
ENCODER, DECODER = "encoder_module.encoders", "decoder_module"
NORMALIZATIONS = {
    None: "none",
    "none": "none",
    "mean_std": "mean_std",
    "auto": "mean_std",
    "estimated_mean_std": "mean_std",
    "sqrt_d_model": "sqrt_d_model",
    "auto_sqrt_d_model": "sqrt_d_model",
    "estimated_mean_std_sqrt_d_model": "sqrt_d_model",
}


class _Norm(NamedTuple):
    """x is read as (x − in_mean) / in_std; what is written is out_std · y + out_mean."""

    in_mean: Tensor
    in_std: Tensor
    out_mean: Tensor
    out_std: Tensor


class _Model(NamedTuple):
    file: TensorFile
    config: dict[str, Any]
    norms: list[_Norm]

    def decoder(self, source: int, target: int) -> str:
        """Name of the linear map from a source's features to a target's output."""
        names = {"none": f"{source}->{target}", "per_source": source, "per_target": target}
        return f"{DECODER}.decoders.{names[self.config['decoder_tying']]}"


def recognize(folder: Path) -> bool:
    """Whether the config is one of crosslayer-coding."""
    return {"num_features", "num_layers", "d_model"} <= peek(folder / CONFIG).keys()


def read(folder: Path) -> DictionaryFiles:
    """Open a CLT. With ``mean_std`` the encoders are read once, to fold the mean into biases."""
    config_file = folder / CONFIG
    config: dict[str, Any] = {"decoder_tying": "none", "activation_fn": "jumprelu"}
    config |= read_json(config_file)
    need(config, config_file, num_features=int, num_layers=int, d_model=int)
    one_of(config, "decoder_tying", config_file, ("none", "per_source", "per_target"))
    if config["activation_fn"] in ("topk", "batchtopk"):
        raise FormatError(
            f"{config_file}: {config['activation_fn']} ranks a whole batch, so that activations "
            "of one prompt are not defined; convert it with crosslayer-coding's "
            "scripts/convert_batchtopk_to_jumprelu.py"
        )
    one_of(config, "activation_fn", config_file, ("relu", "jumprelu"))
    file = TensorFile(_weights(folder))
    check_width(file, f"{ENCODER}.{config['num_layers'] - 1}.weight", 1, config["d_model"])
    model = _Model(file, config, _norms(folder, config))
    layers = [_layer(model, i) for i in range(config["num_layers"])]
    hooks = [block_hook(config.get(f"tl_{end}_template"))[1] for end in ("input", "output")]
    return DictionaryFiles(
        "cross-layer transcoder",
        layers,
        _activation(model),
        hooks[0],
        hooks[1],
        config.get("model_name"),
    )


def _weights(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    for name in FIRST:
        if folder / name in files:
            return folder / name
    if len(files) != 1:
        raise FormatError(
            f"{folder}: expected one of {', '.join(FIRST)} or a single safetensors file, found "
            f"{listed(file.name for file in files)}"
        )
    return files[0]


def _norms(folder: Path, config: dict[str, Any]) -> list[_Norm]:
    default = "sqrt_d_model" if config.get("sqrt_d_model_normalize") else "none"
    method = config.get("normalization_method", default)
    if method not in NORMALIZATIONS:
        one_of({"normalization_method": method}, "normalization_method", folder / CONFIG, ["none"])
    width, layers = config["d_model"], range(config["num_layers"])
    zeros, ones = torch.zeros(width), torch.ones(width)
    if NORMALIZATIONS[method] == "none":
        return [_Norm(zeros, ones, zeros, ones) for _ in layers]
    if NORMALIZATIONS[method] == "sqrt_d_model":
        return [_Norm(zeros, ones / width**0.5, zeros, ones / width**0.5) for _ in layers]
    if not (folder / STATS).is_file():
        raise FormatError(
            f"{folder}: {CONFIG} says normalization_method={method!r}, which needs {STATS}; it "
            "is in the folder of the activations that the CLT was trained on: copy it here"
        )
    stats = read_json(folder / STATS)
    return [_norm(stats, layer, width, folder / STATS) for layer in layers]


def _norm(stats: dict[str, Any], layer: int, width: int, file: Path) -> _Norm:
    try:
        parts = [stats[str(layer)][a][b] for a in ("inputs", "targets") for b in ("mean", "std")]
        mean, std, out_mean, out_std = torch.tensor(parts, dtype=torch.float32).unbind()
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{file}: layer {layer} lacks mean and std of inputs and targets ({error!r})"
        ) from error
    if len(mean) != width:
        raise FormatError(f"{file}: layer {layer} has {len(mean)} numbers, expected {width}")
    return _Norm(mean, std + 1e-6, out_mean, out_std + 1e-6)


def _layer(model: _Model, i: int) -> StoredLayer:
    file, norm, n = model.file, model.norms[i], model.config["num_layers"]
    tied = model.config["decoder_tying"] != "none"
    encoder = StoredMatrix(file, f"{ENCODER}.{i}.weight", column_scale=1 / norm.in_std)
    bias = file.read(f"{ENCODER}.{i}.bias_param").float()
    if norm.in_mean.any():
        bias = (bias - encoder.whole().double() @ norm.in_mean.double()).float()
    decoders = tuple(
        StoredMatrix(
            file,
            f"{model.decoder(i, t)}.weight",
            transposed=True,
            row_scale=file.optional(f"{DECODER}.feature_scale.{t}") if tied else None,
            column_scale=model.norms[t].out_std,
        )
        for t in range(i, n)
    )
    skip = _skip(model, i)
    return StoredLayer(encoder, bias, decoders, _bias(model, i, skip), skip, _offset(model, i))


def _bias(model: _Model, target: int, skip: StoredMatrix | None) -> Tensor:
    per_target = model.config["decoder_tying"] == "per_target"
    sources = [target] if per_target else range(target + 1)
    names = [f"{model.decoder(s, target)}.bias_param" for s in sources]
    norm = model.norms[target]
    bias = torch.stack([model.file.read(name).float() for name in names]).sum(0) * norm.out_std
    if skip is not None:
        bias = bias - skip.whole() @ norm.in_mean
    return bias + norm.out_mean


def _skip(model: _Model, i: int) -> StoredMatrix | None:
    """The skip of the unscaled x to its layer. A skip to layers above is refused."""
    file, norm = model.file, model.norms[i]
    names = [name for name in file.infos if name.startswith(f"{DECODER}.skip_weights.")]
    crossing = [name for name in names if "->" in name and len(set(_ends(name))) > 1]
    if nonzero := [name for name in crossing if file.read(name).any()]:
        raise FormatError(
            f"{file.path}: {listed(nonzero)} skip to layers above their own, which this package "
            "cannot trace; train with tied decoders or without skip_connection"
        )
    candidates = [f"{DECODER}.skip_weights.{end}" for end in (f"{i}->{i}", str(i))]
    skips = [name for name in candidates if name in file]
    if not skips:
        return None
    return StoredMatrix(file, skips[0], row_scale=norm.out_std, column_scale=1 / norm.in_std)


def _ends(name: str) -> list[str]:
    return name.rsplit(".", 1)[-1].split("->")


def _offset(model: _Model, i: int) -> Tensor | None:
    file, n = model.file, model.config["num_layers"]
    if f"{DECODER}.feature_offset.{i}" not in file:
        return None
    return torch.stack([file.read(f"{DECODER}.feature_offset.{t}") for t in range(i, n)], 1)


def _activation(model: _Model) -> Activation:
    if model.config["activation_fn"] == "relu":
        return ReLU()
    threshold = model.file.read("theta_manager.log_threshold").float().exp()
    return JumpReLU(threshold.nextafter(torch.tensor(0.0)))  # ours keeps what is greater
