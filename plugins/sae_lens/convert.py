"""Convert SAELens's transcoders, one per layer, to a dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from sae_lens.saes.sae import SAE
from torch import Tensor, nn

from tl_attribution.dictionaries.activations import JumpReLU, ReLU
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.dictionaries.plugin_sources import LoadOptions
from tl_attribution.dictionaries.transcoder import LayerWeights
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.plugins.transformer_lens import hook_names

ARCHITECTURES = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)

HUGGING_FACE = {
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Hook names of places in Hugging Face's Gemma 3. For Gemma Scope 2, SAELens records both names:
its ``hook_name``, hook_mlp_in, is the stream before the norm, while the transcoders were trained on
the norm's output, which is the place in ``hf_hook_name``."""


class LayerPart(NamedTuple):
    """One layer of a dictionary, and where it reads and writes."""

    layer: int
    read: str
    write: str
    model_name: str | None
    weights: LayerWeights
    threshold: Tensor | None


def convert(sae: Any, options: LoadOptions) -> LayerPart:
    """Convert one transcoder, copying its weights. Raises InputError for options that no dictionary
    can hold, and for metadata without a layer."""
    _check(sae)
    metadata = sae.cfg.metadata
    layer, read = _place(sae, "hook_name", options.feature_input_hook)
    out_layer, write = _place(sae, "hook_name_out", options.feature_output_hook, layer)
    if layer != out_layer:
        raise InputError(f"a transcoder reads at layer {layer} but writes at layer {out_layer}")

    def copied(tensor: Tensor) -> Tensor:
        copy = tensor.detach().to(device=options.device, dtype=options.dtype, copy=True)
        return copy.contiguous()

    weights = LayerWeights(
        W_enc=copied(sae.W_enc.T),
        b_enc=copied(sae.b_enc),
        W_dec=copied(sae.W_dec[:, None]),
        b_dec=copied(sae.b_dec),
        W_skip=copied(sae.W_skip) if hasattr(sae, "W_skip") else None,
    )
    threshold = copied(sae.threshold) if hasattr(sae, "threshold") else None
    return LayerPart(layer, read, write, metadata.model_name, weights, threshold)


def assemble(parts: Iterable[LayerPart]) -> TranscoderSet:
    """Assemble the dictionary of all layers, in any order. Raises InputError for a layer that is
    missing or there twice, MismatchError for layers that differ in hooks, model or shapes."""
    parts = sorted(parts, key=lambda p: p.layer)
    _check_layers([p.layer for p in parts])
    for name, values in (
        ("read at", [p.read for p in parts]),
        ("write at", [p.write for p in parts]),
        ("are of the model", [p.model_name for p in parts]),
        ("have [features, d_model]", [list(p.weights.W_enc.shape) for p in parts]),
    ):
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise MismatchError(
                f"the layers of a dictionary must {name} the same: layer 0 has {values[0]}, layer "
                f"{other} has {values[other]}"
            )
    return TranscoderSet(
        [p.weights for p in parts],
        _activation(parts),
        feature_input_hook=parts[0].read,
        feature_output_hook=parts[0].write,
        model_name=parts[0].model_name,
    )


def _activation(parts: list[LayerPart]) -> ReLU | JumpReLU:
    """ReLU if no layer has thresholds; otherwise JumpReLU, zero for layers without thresholds, and
    never active below zero."""
    if all(p.threshold is None for p in parts):
        return ReLU()
    zeros = torch.zeros_like(parts[0].weights.b_enc)
    thresholds = [zeros if p.threshold is None else p.threshold for p in parts]
    return JumpReLU(torch.stack(thresholds).clamp(min=0))


def _check_layers(layers: list[int]) -> None:
    if not layers:
        raise InputError("a dictionary needs one transcoder per layer, got none")
    twice = sorted(layer for layer, times in Counter(layers).items() if times > 1)
    if twice:
        raise InputError(f"two transcoders for layer {twice[0]}; give one per layer")
    missing = sorted(set(range(max(layers) + 1)) - set(layers))
    if missing:
        raise InputError(
            f"no transcoder for layer {', '.join(map(str, missing))} (found {len(layers)} layers, "
            f"the last one {max(layers)}); a dictionary needs every layer from 0"
        )


def _place(sae: Any, key: str, hook: str | None, layer: int | None = None) -> tuple[int, str]:
    """Layer and hook where a transcoder reads or writes; the caller's ``hook`` takes precedence."""
    metadata = sae.cfg.metadata
    if metadata[key] is None:
        if layer is not None and hook is not None:
            return layer, hook
        raise InputError(
            f"a transcoder's metadata has no {key}, so its place in the model is unknown; set "
            f"sae.cfg.metadata.{key}, such as 'blocks.0.mlp.hook_in'"
        )
    recorded_layer, recorded_hook = hook_names.split(metadata[key])
    place = metadata["hf_hook_name" if key == "hook_name" else "hf_hook_name_out"] or ""
    known = (name for end, name in HUGGING_FACE.items() if place.endswith(f".{end}"))
    return recorded_layer, hook or next(known, recorded_hook)


_FOLD = {
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "sae.fold_activation_whitening(...)",
}


def _check(sae: Any) -> None:
    if not isinstance(sae, SAE):
        raise InputError(
            f"expected transcoders of SAELens, one per layer; got a {type(sae).__name__}"
        )
    cfg = sae.cfg
    label = cfg.metadata.get("hook_name") or "unnamed hook"
    kind = cfg.architecture()
    if kind not in ARCHITECTURES:
        raise InputError(
            f"the SAE at {label} is a {kind}; features that replace MLPs are one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    normalization = cfg.normalize_activations
    if normalization in _FOLD:
        raise InputError(
            f"the transcoder at {label} reads activations normalized by {normalization}, which is "
            f"not folded into its weights yet: call {_FOLD[normalization]}"
        )
    other = {
        "normalize_activations": normalization != "none",
        "reshape_activations": cfg.reshape_activations != "none",
        "d_out": cfg.d_out != cfg.d_in,
        "hook_head_index": cfg.metadata.hook_head_index is not None,
        "activation_fn": not isinstance(sae.activation_fn, nn.ReLU),
    }
    if unfit := [name for name, is_unfit in other.items() if is_unfit]:
        raise InputError(
            f"the transcoder at {label} has {', '.join(unfit)} that no dictionary can hold: "
            "features read and write whole streams of one width, affinely, with ReLU or JumpReLU"
        )
