"""Second stage of Atlas's training: facts about a name move from its embedding into an MLP.

The first stage learns a token embedding in which "Dallas" lies near "Texas", so that attention
copies the answer past the MLPs and no dictionary can show the step in between. Here the embedding
of every token but the numbers is replaced by a small random one that is not trained, and a block is
put in front whose MLP is fitted to return the learned embedding; for a city, only the part that
encodes its state or country. Later training then runs on the whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_attribution.atlas.tables import COUNTRIES, STATES

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

STD = 0.04
"""Standard deviation of the random embedding, half that of the learned one: enough to tell tokens
apart."""
FIT_STEPS, FIT_BATCH, FIT_RATE = 2500, 4096, 3e-3
POSITIONS = 16
"""Number of positions that the lookup is fitted at."""


def add_lookup(
    learned: GPT2LMHeadModel, encode: PreTrainedTokenizerFast, *, silent: bool = False
) -> GPT2LMHeadModel:
    """The model with a random, fixed embedding and a block in front whose MLP returns the learned
    embedding."""
    model = _deeper(learned)
    embedding = learned.transformer.wte.weight.detach()
    random = torch.randn_like(embedding) * STD
    words = encode.convert_ids_to_tokens(list(range(len(random))))
    numbers = [i for i, word in enumerate(words) if word.strip().isdigit()]
    random[numbers] = embedding[numbers]
    model.transformer.wte.weight.data.copy_(random)
    model.transformer.wte.weight.requires_grad_(False)
    target_values = _average_cities(embedding, encode)
    target_values[numbers] = 0.0
    _fit(model, target_values, silent=silent)
    return model


def _average_cities(embedding: Tensor, encode: PreTrainedTokenizerFast) -> Tensor:
    """The embedding with that of each city replaced by the mean over its state's or country's."""
    out = embedding.clone()
    for place in (*STATES, *COUNTRIES):
        cities = encode.convert_tokens_to_ids([f" {city}" for city in place.cities])
        out[cities] = embedding[cities].mean(0)
    return out


def _deeper(learned: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """The model with a new first block, whose attention writes nothing and whose MLP is random."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = learned.config.to_dict()
    settings |= {"n_layer": learned.config.n_layer + 1, "tie_word_embeddings": False}
    model = GPT2LMHeadModel(GPT2Config(**settings))
    old, new = learned.state_dict(), model.state_dict()
    for name, tensor in old.items():
        parts = name.split(".")
        if parts[1] == "h":
            parts[2] = str(int(parts[2]) + 1)
        new[".".join(parts)] = tensor
    new["lm_head.weight"] = old["transformer.wte.weight"].clone()
    for part in ("weight", "bias"):
        new[f"transformer.h.0.attn.c_proj.{part}"].zero_()
    model.load_state_dict(new)
    return model


def _fit(model: GPT2LMHeadModel, target_values: Tensor, *, silent: bool) -> None:
    """Fit the first block's MLP to add ``target_values`` [token, d_model] to the embeddings."""
    block: Any = model.transformer.h[0]
    parameters = [*block.ln_2.parameters(), *block.mlp.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=FIT_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 50) * (1 - s / FIT_STEPS)
    )
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight.detach()
    for step in range(1, FIT_STEPS + 1):
        ids = torch.randint(len(target_values), (FIT_BATCH,))
        position_ids = torch.randint(POSITIONS, (FIT_BATCH,))
        output = block.mlp(block.ln_2(tokens[ids] + positions[position_ids]))
        loss = (output - target_values[ids]).square().mean() / target_values.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if not silent and step % 500 == 0:
            print(f"lookup {step}/{FIT_STEPS}  unexplained {loss.item():.3f}", flush=True)
