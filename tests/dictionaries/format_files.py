"""Dictionaries in the formats of others, made here, and what each format's definition gives: plain
loops over layers, written out once more beside the readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

LAYERS, POSITIONS, WIDTH, FEATURES = 3, 5, 8, 12
HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}


class Case(NamedTuple):
    """What a format's own code would compute from x, and the hooks that its files say."""

    x: Tensor
    acts: Tensor
    recon: Tensor
    hooks: tuple[str, str] | None
    model_name: str | None = None


class Made:
    """Random tensors, the same ones every time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generator = torch.Generator().manual_seed(3)
        self.x = self(LAYERS, POSITIONS, WIDTH) + 0.3
        self.read = [self(FEATURES, WIDTH) * WIDTH**-0.5 for _ in range(LAYERS)]
        self.bias = [self(FEATURES) * 0.3 for _ in range(LAYERS)]
        self.out = {(s, t): self(FEATURES, WIDTH) for t in range(LAYERS) for s in range(t + 1)}
        self.out_bias = [self(WIDTH) for _ in range(LAYERS)]
        self.skips = [self(WIDTH, WIDTH) * 0.2 for _ in range(LAYERS)]
        self.threshold = torch.rand(LAYERS, FEATURES, generator=self.generator) * 0.5

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def pre(self, x: Tensor | None = None) -> list[Tensor]:
        x = self.x if x is None else x
        return [x[i] @ self.read[i].T + self.bias[i] for i in range(LAYERS)]

    def sums(self, acts: list[Tensor], *, cross: bool) -> list[Tensor]:
        """Decoders and biases, nothing else."""
        made = []
        for t in range(LAYERS):
            parts = [acts[s] @ self.out[s, t] for s in (range(t + 1) if cross else [t])]
            made.append(sum(parts[1:], parts[0]) + self.out_bias[t])
        return made

    def save(self, name: str, **tensors: Tensor) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k.replace("__", "."): t.contiguous() for k, t in tensors.items()}, path)

    def say(self, name: str, said: dict[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(said) if path.suffix == ".yaml" else json.dumps(said))


def _jump(pre: list[Tensor], threshold: Tensor) -> list[Tensor]:
    return [p * (p > t) for p, t in zip(pre, threshold, strict=True)]


def _top(pre: Tensor, k: int, ranked: Tensor | None = None) -> Tensor:
    kept = (pre if ranked is None else ranked).topk(k, -1).indices
    return torch.zeros_like(pre).scatter(-1, kept, pre.gather(-1, kept).relu())


def _case(m: Made, acts: list[Tensor], recon: list[Tensor], *more: Any) -> Case:
    return Case(m.x, torch.stack(acts), torch.stack(recon), *(more or (None,)))


def circuit_tracer_clt(m: Made) -> Case:
    for i in range(LAYERS):
        names = {f"W_enc_{i}": m.read[i], f"b_enc_{i}": m.bias[i], f"b_dec_{i}": m.out_bias[i]}
        names[f"threshold_{i}"] = m.threshold[i] - 0.25
        m.save(f"W_enc_{i}.safetensors", **names)
        decoder = torch.stack([m.out[i, t] for t in range(i, LAYERS)], 1)
        m.save(f"W_dec_{i}.safetensors", **{f"W_dec_{i}": decoder})
    m.say("config.yaml", {"model_kind": "cross_layer_transcoder", "model_name": "a/b", **HOOKS})
    acts = _jump(m.pre(), m.threshold - 0.25)  # below zero too
    assert any((one < 0).any() for one in acts)
    return _case(m, acts, m.sums(acts, cross=True), tuple(HOOKS.values()), "a/b")


def circuit_tracer_set(m: Made) -> Case:
    for i in range(LAYERS):
        parts = {"W_enc": m.read[i], "b_enc": m.bias[i], "W_dec": m.out[i, i]}
        m.save(f"layer_{i}.safetensors", **parts, b_dec=m.out_bias[i], W_skip=m.skips[i])
    m.say("config.yaml", {"model_kind": "transcoder_set", **HOOKS})
    acts = [p.relu() for p in m.pre()]
    recon = [r + m.x[i] @ m.skips[i].T for i, r in enumerate(m.sums(acts, cross=False))]
    return _case(m, acts, recon, tuple(HOOKS.values()))


def circuit_tracer_topk(m: Made) -> Case:
    circuit_tracer_set(m)
    m.say("config.yaml", {"model_kind": "transcoder_set", "activation": "topk", "k": 9, **HOOKS})
    pre = m.pre()
    acts = [
        torch.zeros_like(p).scatter(-1, i := p.topk(9, -1).indices, p.gather(-1, i)) for p in pre
    ]
    assert any((one < 0).any() for one in acts)  # no ReLU
    recon = [r + m.x[i] @ m.skips[i].T for i, r in enumerate(m.sums(acts, cross=False))]
    return _case(m, acts, recon, tuple(HOOKS.values()))


def sae_lens(m: Made) -> Case:
    for i in range(LAYERS):
        skip = i != 1  # layers may differ
        parts = {"W_enc": m.read[i].T, "b_enc": m.bias[i], "W_dec": m.out[i, i]}
        parts |= {"threshold": m.threshold[i] - 0.25, "b_dec": m.out_bias[i]}
        m.save(f"x{9 - i}/sae_weights.safetensors", **parts, W_skip=m.skips[i])
        config: dict[str, Any] = {"architecture": f"jumprelu_{'skip_' if skip else ''}transcoder"}
        config |= {"d_in": WIDTH, "d_out": WIDTH, "normalize_activations": "none"}
        hooks = {"hook_name": f"blocks.{i}.ln2.hook_normalized"}
        hooks["hook_name_out"] = f"blocks.{i}.hook_mlp_out"
        m.say(f"x{9 - i}/cfg.json", config | {"metadata": {**hooks, "model_name": "gpt2"}})
    acts = _jump([p.relu() for p in m.pre()], m.threshold - 0.25)
    recon = m.sums(acts, cross=False)
    recon = [r if i == 1 else r + m.x[i] @ m.skips[i].T for i, r in enumerate(recon)]
    return _case(m, acts, recon, ("ln2.hook_normalized", "hook_mlp_out"), "gpt2")


def gemma_scope_1(m: Made, save: Callable[..., None] = np.savez) -> Case:
    for i in range(LAYERS):
        path = m.folder / f"layer_{i}" / "width_16k" / f"average_l0_{i}" / "params.npz"
        path.parent.mkdir(parents=True)
        parts = {"W_enc": m.read[i].T, "b_enc": m.bias[i], "W_dec": m.out[i, i]}
        parts |= {"b_dec": m.out_bias[i], "threshold": m.threshold[i]}
        save(path, **{k: t.numpy() for k, t in parts.items()})
    acts = _jump(m.pre(), m.threshold)
    return _case(m, acts, m.sums(acts, cross=False), ("ln2.hook_normalized", "hook_mlp_out"))


def gemma_scope_2(m: Made) -> Case:
    for i in range(LAYERS):
        parts = {"w_enc": m.read[i].T, "b_enc": m.bias[i], "w_dec": m.out[i, i]}
        parts |= {"threshold": m.threshold[i], "affine_skip_connection": m.skips[i].T}
        folder = f"layer_{i}_width_16k_l0_small_affine"
        m.save(f"{folder}/params.safetensors", **parts, b_dec=m.out_bias[i])
        places = {"in": "pre", "out": "post"}
        said = {f"hf_hook_point_{end}": f"model.layers.{i}.{place}_feedforward_layernorm.output"
                for end, place in places.items()}  # fmt: skip
        m.say(f"{folder}/config.json", said | {"model_name": "gemma-v3-270m-pt"})
    acts = _jump(m.pre(), m.threshold)
    recon = [r + m.x[i] @ m.skips[i].T for i, r in enumerate(m.sums(acts, cross=False))]
    return _case(m, acts, recon, ("mlp.hook_in", "hook_mlp_out"), "google/gemma-3-270m")


def gemma_scope_2_clt(m: Made, *, hooks: bool = False) -> Case:
    """``hooks``: with a config.json that lists the hooks of all layers, as the release's have."""
    if hooks:
        lists = {
            f"hf_hook_point_{end}": [
                f"model.layers.{i}.{place}_feedforward_layernorm.output" for i in range(LAYERS)
            ]
            for end, place in {"in": "pre", "out": "post"}.items()
        }
        m.say("config.json", lists | {"model_name": "gemma-v3-270m-pt"})
    for i in range(LAYERS):
        decoder = torch.zeros(FEATURES, LAYERS, WIDTH)
        for t in range(i, LAYERS):
            decoder[:, t] = m.out[i, t]
        parts = {"w_enc": m.read[i].T, "b_enc": m.bias[i], "w_dec": decoder}
        m.save(
            f"params_layer_{i}.safetensors", **parts, b_dec=m.out_bias[i], threshold=m.threshold[i]
        )
    acts = _jump(m.pre(), m.threshold)
    model = "google/gemma-3-270m" if hooks else None
    return _case(m, acts, m.sums(acts, cross=True), ("mlp.hook_in", "hook_mlp_out"), model)


def clt_training(m: Made) -> Case:
    """Every part of it: norms, offsets, scales, its own skip, sums divided by the sources."""
    offset = {(s, t): m(FEATURES) * 0.5 for s, t in m.out}
    scale = {(s, t): m(FEATURES) for s, t in m.out}
    biases = {(s, t): m(WIDTH) for s, t in m.out}
    into, out = [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]
    for i in range(LAYERS):
        tensors = {"encoder.weight": m.read[i], "encoder.bias": m.bias[i]}
        tensors |= {"in_norm": torch.tensor([into[i]]), "out_norm": torch.tensor([out[i]])}
        for k, t in enumerate(range(i, LAYERS)):
            tensors |= {f"W_decs.{k}": m.out[i, t], f"b_decs.{k}": biases[i, t]}
            tensors |= {f"post_encs.{k}": offset[i, t], f"post_enc_scales.{k}": scale[i, t]}
            tensors[f"W_skips.{k}"] = m.skips[i] if k == 0 else torch.zeros(WIDTH, WIDTH)
        m.save(f"layers.{i}.mlp/sae.safetensors", **tensors)
        config = {"d_in": WIDTH, "k": 4, "activation": "topk", "transcode": True}
        config |= {"normalize_io": True, "divide_cross_layer": True, "n_targets": LAYERS - i}
        m.say(f"layers.{i}.mlp/cfg.json", config)
    m.say("config.json", {"model": "gpt2"})
    x = [m.x[i] * WIDTH**0.5 / into[i] for i in range(LAYERS)]
    acts = [_top(p, 4) for p in m.pre(torch.stack(x))]
    recon = []
    for t in range(LAYERS):
        parts = []
        for s in range(t + 1):
            written = (acts[s] + offset[s, t] * (acts[s] > 0)) * scale[s, t]
            parts.append(written @ m.out[s, t] + biases[s, t])
        others = sum(parts[:-1], torch.zeros(POSITIONS, WIDTH)) / max(1, t)
        made = parts[-1] + x[t] @ m.skips[t].T + others
        recon.append(made * out[t] / WIDTH**0.5)
    return _case(m, acts, recon, ("mlp.hook_in", "mlp.hook_out"), "gpt2")


def crosslayer_coding(m: Made) -> Case:
    mean, std = m(LAYERS, WIDTH), m(LAYERS, WIDTH).abs() + 0.5
    out_mean, out_std = m(LAYERS, WIDTH), m(LAYERS, WIDTH).abs() + 0.5
    tensors = {"theta_manager.log_threshold": m.threshold.log()}
    biases = {pair: m(WIDTH) for pair in m.out}
    for i in range(LAYERS):
        tensors[f"encoder_module.encoders.{i}.weight"] = m.read[i]
        tensors[f"encoder_module.encoders.{i}.bias_param"] = m.bias[i]
    for (s, t), weight in m.out.items():
        tensors[f"decoder_module.decoders.{s}->{t}.weight"] = weight.T
        tensors[f"decoder_module.decoders.{s}->{t}.bias_param"] = biases[s, t]
    m.save("clt.safetensors", **tensors)
    config = {"num_features": FEATURES, "num_layers": LAYERS, "d_model": WIDTH}
    config |= {"normalization_method": "auto", "model_name": "gpt2"}
    templates = {"tl_input_template": "blocks.{}.ln2.hook_normalized"}
    m.say("cfg.json", config | templates | {"tl_output_template": "blocks.{}.hook_mlp_out"})
    stats = {
        str(i): {
            "inputs": {"mean": mean[i].tolist(), "std": std[i].tolist()},
            "targets": {"mean": out_mean[i].tolist(), "std": out_std[i].tolist()},
        }
        for i in range(LAYERS)
    }
    m.say("norm_stats.json", stats)
    pre = m.pre((m.x - mean[:, None]) / (std[:, None] + 1e-6))
    acts = [p * (p >= m.threshold[i].log().exp()) for i, p in enumerate(pre)]
    recon = []
    for t in range(LAYERS):
        parts = [acts[s] @ m.out[s, t] + biases[s, t] for s in range(t + 1)]
        recon.append(sum(parts[1:], parts[0]) * (out_std[t] + 1e-6) + out_mean[t])
    return _case(m, acts, recon, ("ln2.hook_normalized", "hook_mlp_out"), "gpt2")


def crosslayer_coding_tied(m: Made) -> Case:
    """One decoder a target, offsets and scales by target, a skip of the layer's own input."""
    shared = [m(FEATURES, WIDTH) for _ in range(LAYERS)]
    offset, scale = m(LAYERS, FEATURES), m(LAYERS, FEATURES)
    tensors = {}
    for i in range(LAYERS):
        tensors[f"encoder_module.encoders.{i}.weight"] = m.read[i]
        tensors[f"encoder_module.encoders.{i}.bias_param"] = m.bias[i]
        tensors[f"decoder_module.decoders.{i}.weight"] = shared[i].T
        tensors[f"decoder_module.decoders.{i}.bias_param"] = m.out_bias[i]
        tensors[f"decoder_module.feature_offset.{i}"] = offset[i].clone()
        tensors[f"decoder_module.feature_scale.{i}"] = scale[i].clone()
        tensors[f"decoder_module.skip_weights.{i}"] = m.skips[i]
    m.save("model.safetensors", **tensors)
    config = {"num_features": FEATURES, "num_layers": LAYERS, "d_model": WIDTH}
    config |= {"normalization_method": "sqrt_d_model", "activation_fn": "relu"}
    m.say("cfg.json", config | {"decoder_tying": "per_target", "skip_connection": True})
    x = m.x * WIDTH**0.5
    acts = [p.relu() for p in m.pre(x)]
    recon = []
    for t in range(LAYERS):
        written = [(a + offset[t] * (a != 0)) * scale[t] for a in acts[: t + 1]]
        made = sum(written[1:], written[0]) @ shared[t] + m.out_bias[t] + x[t] @ m.skips[t].T
        recon.append(made / WIDTH**0.5)
    return _case(m, acts, recon)


def crosslayer_transcoder(m: Made) -> Case:
    mean, std = m(LAYERS, WIDTH), m(LAYERS, WIDTH).abs() + 0.5
    out_mean, out_std = m(LAYERS, WIDTH), m(LAYERS, WIDTH).abs() + 0.5
    tensors = {"encoder.W": torch.stack([w.T for w in m.read]), "encoder.b": torch.stack(m.bias)}
    tensors |= {"decoder.b": torch.stack(m.out_bias)}
    tensors |= {"nonlinearity.theta": m.threshold[None] - 0.25}
    for t in range(LAYERS):
        tensors[f"decoder.W_{t}"] = torch.stack([m.out[s, t] for s in range(t + 1)])
    tensors |= {"input_standardizer.mean": mean, "input_standardizer.std": std}
    tensors |= {"output_standardizer.mean": out_mean, "output_standardizer.std": out_std}
    m.save("checkpoint.safetensors", **tensors)
    root = "crosslayer_transcoder.model."
    classes = {
        "nonlinearity": "jumprelu.JumpReLU",
        "encoder": "clt.Encoder",
        "decoder": "clt.CrosslayerDecoder",
        "input_standardizer": "standardize.DimensionwiseInputStandardizer",
        "output_standardizer": "standardize.DimensionwiseOutputStandardizer",
    }
    parts = {name: {"class_path": root + one, "init_args": {}} for name, one in classes.items()}
    model = {"class_path": root + "clt.CrossLayerTranscoder", "init_args": parts}
    m.say("config.yaml", {"model": model})
    pre = m.pre((m.x - mean[:, None]) / std[:, None])
    acts = [p * ((p > m.threshold[i] - 0.25) & (p > 0)) for i, p in enumerate(pre)]
    recon = [
        r * out_std[t] + out_mean[t]
        for t, r in enumerate(m.sums(acts, cross=True))
    ]  # fmt: skip
    return _case(m, acts, recon)


def llamascopium(m: Made, act: str = "jumprelu") -> Case:
    into, out = [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]
    names = {"in": "blocks.{}.ln2.hook_normalized", "out": "blocks.{}.hook_mlp_out"}
    tensors = {"W_E": torch.stack([w.T for w in m.read]), "b_E": torch.stack(m.bias)}
    tensors["activation_function.log_jumprelu_threshold"] = m.threshold.log()
    for i in range(LAYERS):
        tensors[f"W_D.{i}"] = torch.stack([m.out[s, i] for s in range(i + 1)])
        tensors[f"b_D.{i}"] = m.out_bias[i]
        for end, norms in (("in", into), ("out", out)):
            hook = names[end].format(i)
            tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(norms[i])
    m.save("sae_weights.safetensors", **tensors)
    hooks = {f"hook_points_{e}": [n.format(i) for i in range(LAYERS)] for e, n in names.items()}
    config = {"sae_type": "clt", "d_model": WIDTH, "act_fn": act, "top_k": 4}
    m.say("config.json", config | hooks | {"norm_activation": "dataset-wise"})
    factor = [WIDTH**0.5 / norm for norm in into]
    pre = m.pre(torch.stack([m.x[i] * factor[i] for i in range(LAYERS)]))
    norms = [
        torch.cat([m.out[s, t] for t in range(s, LAYERS)], dim=1).norm(dim=1) for s in range(LAYERS)
    ]
    acts = [
        _top(p, 4, p * n) if act == "topk" else p * (p * n > m.threshold[i].log().exp())
        for i, (p, n) in enumerate(zip(pre, norms, strict=True))
    ]
    recon = [r * out[t] / WIDTH**0.5 for t, r in enumerate(m.sums(acts, cross=True))]
    return _case(m, acts, recon, ("ln2.hook_normalized", "hook_mlp_out"))


MAKERS: dict[str, Callable[[Made], Case]] = {
    "circuit-tracer-clt": circuit_tracer_clt,
    "circuit-tracer-set": circuit_tracer_set,
    "circuit-tracer-topk": circuit_tracer_topk,
    "sae-lens": sae_lens,
    "gemma-scope-1": gemma_scope_1,
    "gemma-scope-1-compressed": lambda m: gemma_scope_1(m, np.savez_compressed),
    "gemma-scope-2": gemma_scope_2,
    "gemma-scope-2-clt": gemma_scope_2_clt,
    "gemma-scope-2-clt-hooks": lambda m: gemma_scope_2_clt(m, hooks=True),
    "clt-training": clt_training,
    "crosslayer-coding": crosslayer_coding,
    "crosslayer-coding-tied": crosslayer_coding_tied,
    "crosslayer-transcoder": crosslayer_transcoder,
    "llamascopium-jumprelu": llamascopium,
    "llamascopium-topk": lambda m: llamascopium(m, "topk"),
}


def make(name: str, folder: Path) -> Case:
    """A dictionary's files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return MAKERS[name](Made(folder))
