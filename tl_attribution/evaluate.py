"""Does the dictionary tell the truth: the model run with it in place of its MLPs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.replacement.active import check_fits
from tl_attribution.replacement.host import host_for
from tl_attribution.replacement.prompts import Prompt, compute_in_fp32, resolve_prefix, token_ids
from tl_attribution.shapes import Stream


def replacement_logits(
    model: Any,
    prompt: Prompt,
    dictionary: Dictionary,
    *,
    errors: bool = False,
    prefix: int | None = None,
) -> Float[Tensor, "position vocab"]:
    """Logits of the replacement model (methods paper, "From cross-layer transcoder to replacement
    model"): every MLP's output is the dictionary's reconstruction, attention and norms run freely.

    Features read the replacement model's own streams. MLP outputs of the prefix are the model's.
    ``errors=True`` adds what the dictionary missed on the original run, so that the original logits
    come back. Raises InputError and MismatchError as :func:`tl_attribution.attribute` does.
    """
    host = host_for(compute_in_fp32(model))
    check_fits(host, dictionary)
    ids = token_ids(host, prompt)
    first = resolve_prefix(host, ids, prefix)
    read = host.read_site(dictionary.feature_input_hook)
    write = host.write_site(dictionary.feature_output_hook)
    missed: dict[int, Stream] = {}

    def reconstruct(acts: list[Tensor], layer: int, x: Stream, original: Stream) -> Stream:
        acts.append(dictionary.encode_layer(layer, x).activation)
        out = dictionary.affine(layer, x, original)
        for source, active in enumerate(acts):
            if layer in dictionary.written_layers(source):
                every = torch.arange(dictionary.n_features, device=active.device)
                out = out + active @ dictionary.writes(source, every, layer).to(active)
        return torch.cat([original[:first], out[first:]])

    def measure(layer: int, x: Stream, original: Stream) -> Stream:
        missed[layer] = original - reconstruct(on_original, layer, x, original)
        return original

    def replace(layer: int, x: Stream, original: Stream) -> Stream:
        out = reconstruct(on_replacement, layer, x, original)
        return out + missed[layer] if errors else out

    on_original: list[Tensor] = []
    on_replacement: list[Tensor] = []
    if errors:
        host.run_replacing_mlps(ids, read, write, measure)
    return host.run_replacing_mlps(ids, read, write, replace)
