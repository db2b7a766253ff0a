"""SAELens's transcoders, one a layer, as a dictionary."""

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
"""Where Hugging Face's Gemma 3 has what a hook holds. For Gemma Scope 2, SAELens records both, and
its ``hook_name``, hook_mlp_in, is the stream before the norm, not the norm's output, which the
transcoders were trained on and which ``hf_hook_name`` says."""


class Part(NamedTuple):
    """One layer of a dictionary."""

    layer: int
    read: str
    write: str
    model_name: str | None
    weights: LayerWeights
    threshold: Tensor | None


def part(sae: Any, wanted: LoadOptions) -> Part:
    """One transcoder, its weights copied. Raises InputError for what no dictionary can hold, and
    where it does not say which layer it is of."""
    _check(sae)
    metadata = sae.cfg.metadata
    layer, read = _place(sae, "hook_name", wanted.feature_input_hook)
    out_layer, write = _place(sae, "hook_name_out", wanted.feature_output_hook, layer)
    if layer != out_layer:
        raise InputError(f"a transcoder reads at layer {layer} but writes at layer {out_layer}")

    def ready(tensor: Tensor) -> Tensor:
        copied = tensor.detach().to(device=wanted.device, dtype=wanted.dtype, copy=True)
        return copied.contiguous()

    weights = LayerWeights(
        W_enc=ready(sae.W_enc.T),
        b_enc=ready(sae.b_enc),
        W_dec=ready(sae.W_dec[:, None]),
        b_dec=ready(sae.b_dec),
        W_skip=ready(sae.W_skip) if hasattr(sae, "W_skip") else None,
    )
    threshold = ready(sae.threshold) if hasattr(sae, "threshold") else None
    return Part(layer, read, write, metadata.model_name, weights, threshold)


def assemble(parts: Iterable[Part]) -> TranscoderSet:
    """The dictionary of all layers, given in any order. Raises InputError for a layer that is
    missing or there twice, MismatchError for layers that differ in what must be the same."""
    parts = sorted(parts, key=lambda p: p.layer)
    _check_layers([p.layer for p in parts])
    for what, values in (
        ("read at", [p.read for p in parts]),
        ("write at", [p.write for p in parts]),
        ("are of the model", [p.model_name for p in parts]),
        ("have [features, d_model]", [list(p.weights.W_enc.shape) for p in parts]),
    ):
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise MismatchError(
                f"the layers of a dictionary must {what} the same: layer 0 has {values[0]}, layer "
                f"{other} has {values[other]}"
            )
    return TranscoderSet(
        [p.weights for p in parts],
        _activation(parts),
        feature_input_hook=parts[0].read,
        feature_output_hook=parts[0].write,
        model_name=parts[0].model_name,
    )


def _activation(parts: list[Part]) -> ReLU | JumpReLU:
    """A transcoder without thresholds has thresholds of zero; with some, it is a ReLU as well."""
    if all(p.threshold is None for p in parts):
        return ReLU()
    none = torch.zeros_like(parts[0].weights.b_enc)
    every = [none if p.threshold is None else p.threshold for p in parts]
    return JumpReLU(torch.stack(every).clamp(min=0))


def _check_layers(layers: list[int]) -> None:
    if not layers:
        raise InputError("a dictionary needs one transcoder a layer, got none")
    twice = sorted(layer for layer, times in Counter(layers).items() if times > 1)
    if twice:
        raise InputError(f"two transcoders for layer {twice[0]}; give one a layer")
    missing = sorted(set(range(max(layers) + 1)) - set(layers))
    if missing:
        raise InputError(
            f"no transcoder for layer {', '.join(map(str, missing))} (found {len(layers)} layers, "
            f"the last one {max(layers)}); a dictionary needs every layer from 0"
        )


def _place(sae: Any, key: str, given: str | None, layer: int | None = None) -> tuple[int, str]:
    """Layer and hook where a transcoder reads or writes; what the caller gave wins."""
    metadata = sae.cfg.metadata
    if metadata[key] is None:
        if layer is not None and given is not None:
            return layer, given
        raise InputError(
            f"a transcoder's metadata has no {key}, so where it belongs is not known; set "
            f"sae.cfg.metadata.{key}, such as 'blocks.0.mlp.hook_in'"
        )
    found_layer, hook = hook_names.split(metadata[key])
    hugging_face = metadata["hf_hook_name" if key == "hook_name" else "hf_hook_name_out"] or ""
    told = (ours for theirs, ours in HUGGING_FACE.items() if hugging_face.endswith(f".{theirs}"))
    return found_layer, given or next(told, hook)


_FOLD = {
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "sae.fold_activation_whitening(...)",
}


def _check(sae: Any) -> None:
    if not isinstance(sae, SAE):
        raise InputError(
            f"expected transcoders of SAELens, one a layer; got a {type(sae).__name__}"
        )
    cfg = sae.cfg
    where = cfg.metadata.get("hook_name") or "unnamed hook"
    kind = cfg.architecture()
    if kind not in ARCHITECTURES:
        raise InputError(
            f"the SAE at {where} is a {kind}; features that stand in for MLPs are one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    normalised = cfg.normalize_activations
    if normalised in _FOLD:
        raise InputError(
            f"the transcoder at {where} reads activations normalised by {normalised}, which is not "
            f"folded into its weights yet: call {_FOLD[normalised]}"
        )
    other = {
        "normalize_activations": normalised != "none",
        "reshape_activations": cfg.reshape_activations != "none",
        "d_out": cfg.d_out != cfg.d_in,
        "hook_head_index": cfg.metadata.hook_head_index is not None,
        "activation_fn": not isinstance(sae.activation_fn, nn.ReLU),
    }
    if unfit := [name for name, is_unfit in other.items() if is_unfit]:
        raise InputError(
            f"the transcoder at {where} has {', '.join(unfit)} that no dictionary can hold: "
            "features read and write whole streams of one width, affinely, with ReLU or JumpReLU"
        )
