"""Models by name: TransformerBridge where this transformer-lens has it, else HookedTransformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tl_attribution.errors import NotFoundError, nearest


def load(name: str, folder: Path | None, device: str | None) -> Any:
    """Load from a folder in Hugging Face form, or by a name that transformer-lens knows, onto a
    device; None: a folder's onto the CPU, others where transformer-lens puts them.

    Raises NotFoundError if there is no such model or it cannot be had.
    """
    import transformer_lens

    bridged = _bridge()
    try:
        if folder is not None:
            hf, tokenizer = _from_folder(folder)
            place = device or "cpu"
            if bridged is None:
                return _hooked_gpt2(name, hf, tokenizer).to(place)
            hf = hf.to(place)
            return bridged.boot_transformers(name, hf_model=hf, tokenizer=tokenizer, device=place)
        if bridged is None:
            hooked = transformer_lens.HookedTransformer
            return hooked.from_pretrained_no_processing(name, device=device)
        return bridged.boot_transformers(name, device=device)
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"no model {name!r}: {nearest(name, _short(name))}. transformer-lens said: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error


def _bridge() -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:  # transformer-lens 2.x
        return None
    return TransformerBridge


def _short(name: str) -> list[str]:
    """``atlas`` and the few official names nearest to ``name``; there are hundreds."""
    import difflib

    try:
        from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES as official
    except ImportError:
        official = []
    return ["atlas", *difflib.get_close_matches(name, official, n=4, cutoff=0.5)]


def _from_folder(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any
    # Patterns are read, so attention must compute them one by one.
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", use_safetensors=True
    )
    return model.to(torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


def _hooked_gpt2(name: str, hf: Any, tokenizer: Any) -> Any:
    """A GPT-2 architecture in HookedTransformer, weights as they are."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    c = hf.config
    if c.model_type != "gpt2":
        raise NotFoundError(
            f"{name!r} is a {c.model_type}; a folder in HookedTransformer must be a GPT-2. Install "
            "transformer-lens 3 or later, whose TransformerBridge loads any"
        )
    config = HookedTransformerConfig(
        model_name=name,
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_heads=c.n_head,
        d_head=c.n_embd // c.n_head,
        d_mlp=c.n_inner or 4 * c.n_embd,
        d_vocab=c.vocab_size,
        n_ctx=c.n_positions,
        act_fn=c.activation_function,
        normalization_type="LN",
        eps=c.layer_norm_epsilon,
        device="cpu",
    )
    model = HookedTransformer(config, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()
