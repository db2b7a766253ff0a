"""Small models and dictionaries with fixed random weights, from public names only.

Every weight is drawn by NumPy's frozen RandomState, so that it is the same number with every
version of torch, transformers and transformer-lens.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import tl_attribution as tla

VOCAB, N_LAYERS, D_MODEL, D_MLP, N_HEADS, CONTEXT = 53, 3, 32, 40, 4, 32
FEATURES = 14
"""Features per layer of a random dictionary unless told otherwise."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def _folder() -> Path:
    """A folder that stays until Python exits: weights are read from it as they are needed."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Random:
    """A stream of normal numbers that no library's version changes."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers in float32."""
        return torch.from_numpy(self.state.standard_normal(shape) * scale).float()

    def uniform(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Numbers from 0 to ``scale`` in float32."""
        return torch.from_numpy(self.state.random_sample(shape) * scale).float()


@cache
def _tokenizer_folder() -> str:
    words = [*SPECIAL, *(f" w{i}" for i in range(VOCAB - len(SPECIAL)))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    pad, bos, eos, unk = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )
    folder = _folder()
    fast.save_pretrained(folder)
    return str(folder)


def tokenizer() -> Any:
    """Four special tokens and the words " w0" to " w48"; a text starts with BOS. Loaded from its
    files, as HookedTransformer asks where a tokenizer came from."""
    return AutoTokenizer.from_pretrained(_tokenizer_folder())


def texts(count: int, seed: int) -> list[str]:
    """Sentences of 4 to 12 words."""
    draw = np.random.RandomState(seed)
    lengths = draw.randint(4, 13, size=count)
    return ["".join(f" w{word}" for word in draw.randint(0, 45, size=n)) for n in lengths]


def _randomize(model: torch.nn.Module, seed: int) -> None:
    """Matrices become noise; norms and biases get noise on top of their initial ones and zeros."""
    draw = Random(seed)
    for _, parameter in sorted(model.named_parameters()):
        vector = parameter.ndim == 1
        noise = draw.normal(*parameter.shape, scale=0.3 if vector else 0.25)
        parameter.data = parameter.data + noise if vector else noise


def hooked(name: str, seed: int, **settings: Any) -> Any:
    """A HookedTransformer with layer norms that are not folded."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": N_LAYERS, "d_model": D_MODEL, "d_mlp": D_MLP, "n_heads": N_HEADS}
    config = HookedTransformerConfig(
        model_name=name, d_vocab=VOCAB, n_ctx=CONTEXT, d_head=D_MODEL // N_HEADS, device="cpu",
        normalization_type="LN", default_prepend_bos=True, **sizes, **settings,
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer=tokenizer())
    _randomize(model, seed)
    return model.eval()


def bridged(name: str, seed: int, config: Any) -> Any:
    """A model of transformers in TransformerBridge, with its weights as they are."""
    from transformer_lens.model_bridge import TransformerBridge

    config.pad_token_id, config.bos_token_id, config.eos_token_id = range(3)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    model.config.architectures = [type(model).__name__]
    _randomize(model, seed)
    return TransformerBridge.boot_transformers(
        name, hf_model=model, tokenizer=tokenizer(), device="cpu"
    )


def _grouped(**settings: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS, "num_key_value_heads": 2, "intermediate_size": D_MLP,
        "max_position_embeddings": CONTEXT, "head_dim": D_MODEL // N_HEADS, **settings,
    }  # fmt: skip


def gpt2() -> Any:
    """Like GPT-2: learned positions, LayerNorm, ungated MLPs; HookedTransformer."""
    return hooked("random-gpt2", 1, act_fn="gelu_new")


def neox() -> Any:
    """Like Pythia: attention and MLP in parallel, half of each head rotary; HookedTransformer."""
    rotary = {
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_adjacent_pairs": False,
    }
    return hooked("random-neox", 2, act_fn="gelu", parallel_attn_mlp=True, **rotary)


def llama() -> Any:
    """Like Llama: grouped heads, RMS norms, gated MLPs; TransformerBridge."""
    return bridged("random-llama", 3, transformers.LlamaConfig(**_grouped()))


def gemma2() -> Any:
    """Like Gemma 2: norms after each part too, soft caps, local attention; TransformerBridge."""
    more = {"sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}
    return bridged("random-gemma2", 4, transformers.Gemma2Config(**_grouped(**more)))


def dictionary(
    activation: dict[str, Any],
    seed: int,
    *,
    features: int = FEATURES,
    decoder_scale: float = 0.2,
    kind: str = "cross-layer transcoder",
    window: int = N_LAYERS,
    skip: bool = False,
    offset: bool = False,
    read: str = "mlp.hook_in",
    write: str = "hook_mlp_out",
) -> Any:
    """A random dictionary, written to files in this package's format and loaded from them."""
    draw, folder = Random(seed), _folder()
    for layer in range(N_LAYERS):
        written = min(window, N_LAYERS - layer) if kind == "cross-layer transcoder" else 1
        tensors = {
            "W_enc": draw.normal(features, D_MODEL, scale=D_MODEL**-0.5),
            "b_enc": draw.normal(features, scale=0.3),
            "W_dec": draw.normal(features, written, D_MODEL, scale=decoder_scale),
            "b_dec": draw.normal(D_MODEL, scale=0.2),
        }
        if skip:
            tensors["W_skip"] = draw.normal(D_MODEL, D_MODEL, scale=0.15)
        if offset:
            tensors["offset"] = draw.normal(features, written, scale=0.3)
        if activation["name"] == "jumprelu":
            tensors["threshold"] = draw.uniform(features, scale=0.4)
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    config = {
        "format": "tl-attribution dictionary", "version": 1, "kind": kind, "n_layers": N_LAYERS,
        "n_features": features, "d_model": D_MODEL, "feature_input_hook": read,
        "feature_output_hook": write, "model_name": None, "activation": activation,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return tla.load_dictionary(folder)
