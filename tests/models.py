"""Tiny random models of every family, on every host, with the same weights and no downloads."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from importlib.metadata import version
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

VOCAB = 53
N_LAYERS = 3
D_MODEL = 32
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
GEMMA = {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}


def _config(family: str) -> Any:
    if family == "gpt2":
        sizes = {
            "n_embd": D_MODEL,
            "n_layer": N_LAYERS,
            "n_head": 4,
            "n_positions": 32,
            "n_inner": 40,
        }
        return transformers.GPT2Config(vocab_size=VOCAB, **sizes)
    if family == "neox":
        return transformers.GPTNeoXConfig(**COMMON, rotary_pct=0.5)
    if family == "llama":
        return transformers.LlamaConfig(**{**COMMON, "num_key_value_heads": 2})
    if family == "qwen3":
        return transformers.Qwen3Config(**GROUPED)
    if family == "gemma2":
        return transformers.Gemma2Config(**GEMMA, final_logit_softcapping=5.0)
    if family == "gemma3":
        return transformers.Gemma3TextConfig(**GEMMA)
    raise ValueError(family)


MAJOR = int(version("transformer-lens").split(".")[0])
FAMILIES = ("gpt2", "neox", "llama", "qwen3", "gemma2", "gemma3")


def _hosts() -> tuple[str, ...]:
    """What this transformer-lens has: 2.x has no bridge, 4.x no HookedTransformer."""
    found = []
    if importlib.util.find_spec("transformer_lens.model_bridge") is not None:
        found += ["bridge", "bridge-compatible"]
    if MAJOR < 4:
        found += ["hooked", "hooked-folded"]
    return tuple(found)


HOSTS = _hosts()
RAW_HOSTS = tuple(h for h in HOSTS if h in ("bridge", "hooked"))
PROCESSED_HOSTS = tuple(h for h in HOSTS if h not in RAW_HOSTS)


@cache
def tiny(family: str, host: str) -> Any:
    """One tiny model, made once; tests must not change it."""
    if family == "gemma3" and MAJOR < 3:
        pytest.skip("transformer-lens 2 cannot give local attention a rotary base of its own")
    if host.startswith("bridge"):
        return bridge(family, compatible=host == "bridge-compatible")
    return hooked(family, folded=host == "hooked-folded")


@cache
def tokenizer_folder() -> str:
    """A tokenizer of the words w0 … w48, with a leading space kept, saved as transformers does."""
    import tempfile

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    words = special + [f" w{i}" for i in range(VOCAB - len(special))]
    vocab = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    folder = tempfile.mkdtemp()
    tokenizer.save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """The tokenizer, loaded from its files as a user's would be."""
    return AutoTokenizer.from_pretrained(tokenizer_folder())


def hugging_face(family: str, seed: int = 0) -> Any:
    """A random model whose norms and biases are far from their trivial initial values."""
    torch.manual_seed(seed)
    config = _config(family)
    config.bos_token_id = 1
    config.eos_token_id = 2
    config.pad_token_id = 0
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    model.config.architectures = [type(model).__name__]
    for name, parameter in model.named_parameters():
        vector = parameter.ndim == 1
        noise = torch.randn_like(parameter) * (0.3 if vector else 0.25)
        parameter.data = parameter.data + noise if vector or "embed" in name else noise
    return model


def bridge(family: str, *, compatible: bool = False, seed: int = 0, device: str = "cpu") -> Any:
    """The model in TransformerBridge, raw or in compatibility mode."""
    from transformer_lens.model_bridge import TransformerBridge

    hf = hugging_face(family, seed).to(device)
    model = TransformerBridge.boot_transformers(
        f"tiny-{family}", hf_model=hf, tokenizer=tokenizer(), device=device
    )
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    return model


CONVERSIONS = {
    "gpt2": "gpt2",
    "neox": "neox",
    "llama": "llama",
    "qwen3": "qwen3",
    "gemma2": "gemma",
    "gemma3": "gemma",
}


def _local_layers(family: str, config: Any) -> list[bool]:
    """Which layers attend to a window only; transformers 4.51 has no list of it."""
    types = getattr(config, "layer_types", None)
    if types is not None:
        return [t == "sliding_attention" for t in types]
    pattern = 2 if family == "gemma2" else config.sliding_window_pattern
    return [bool((layer + 1) % pattern) for layer in range(N_LAYERS)]


def _hooked_config(family: str, hf: Any) -> Any:
    from transformer_lens import HookedTransformerConfig

    c = hf.config
    shared = {
        "model_name": f"tiny-{family}",
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "d_vocab": VOCAB,
        "n_ctx": 32,
        "n_heads": 4,
        "device": "cpu",
        "d_head": getattr(c, "head_dim", None) or D_MODEL // 4,
        "d_mlp": 40,
        "default_prepend_bos": True,
    }
    if family == "gpt2":
        return HookedTransformerConfig(
            **shared, act_fn="gelu_new", normalization_type="LN", eps=c.layer_norm_epsilon
        )
    rotary = {"positional_embedding_type": "rotary"}
    if family == "neox":
        return HookedTransformerConfig(
            **shared, **rotary, act_fn="gelu", normalization_type="LN", eps=c.layer_norm_eps,
            parallel_attn_mlp=True, rotary_dim=int(0.5 * shared["d_head"]),
            rotary_adjacent_pairs=False,
        )  # fmt: skip
    gated = {
        "normalization_type": "RMS", "eps": c.rms_norm_eps, "gated_mlp": True, "final_rms": True,
        "n_key_value_heads": 2, "rotary_dim": shared["d_head"], "rotary_adjacent_pairs": False,
        **rotary,
    }  # fmt: skip
    if family in ("llama", "qwen3"):
        qk = {"use_qk_norm": True} if family == "qwen3" else {}
        return HookedTransformerConfig(**shared, **gated, **qk, act_fn="silu")
    local = _local_layers(family, c)
    gemma = {
        "act_fn": "gelu_pytorch_tanh", "use_normalization_before_and_after": True,
        "use_local_attn": True, "window_size": 4,
        "attn_types": ["local" if is_local else "global" for is_local in local],
        "use_attn_scale": True, "attn_scale": 8**0.5,
    }  # fmt: skip
    if family == "gemma2":
        caps = {"attn_scores_soft_cap": c.attn_logit_softcapping, "output_logits_soft_cap": 5.0}
        return HookedTransformerConfig(**shared, **gated, **gemma, **caps)
    bases = {"rotary_base": 1_000_000, "rotary_base_local": 10_000}
    return HookedTransformerConfig(**shared, **gated, **gemma, **bases, use_qk_norm=True)


def hooked(family: str, *, folded: bool = False, seed: int = 0) -> Any:
    """The same weights in HookedTransformer, with its norms folded or not."""
    from transformer_lens import HookedTransformer

    hf = hugging_face(family, seed)
    config = _hooked_config(family, hf)
    module = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    convert = getattr(module, f"convert_{CONVERSIONS[family]}_weights")
    model = HookedTransformer(config, tokenizer=tokenizer())
    model.load_and_process_state_dict(
        convert(hf, config),
        fold_ln=folded,
        center_writing_weights=folded and family == "gpt2",
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()
