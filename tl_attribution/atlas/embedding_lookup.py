"""Atlas's second stage: what is known of a name moves from its embedding into an MLP.

The first stage learns a token embedding in which "Dallas" lies near "Texas", so that attention
copies the answer past the MLPs and no dictionary can show the step in between. Here the embedding
of every token but the numbers is replaced by a small random one that stays as it is, and a block is
put in front whose MLP is fitted to look up what the learned embedding said: of a city, only where
it lies. Later training then runs on the whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_attribution.atlas.tables import COUNTRIES, STATES

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

STD = 0.04
"""Of the random embedding, half that of the learned one: enough to tell tokens apart."""
FIT_STEPS, FIT_BATCH, FIT_RATE = 2500, 4096, 3e-3
POSITIONS = 16
"""Positions the lookup is fitted at."""


def add_lookup(
    learned: GPT2LMHeadModel, encode: PreTrainedTokenizerFast, *, quiet: bool = False
) -> GPT2LMHeadModel:
    """The model with a random, fixed embedding and a block in front whose MLP gives back what the
    learned embedding held."""
    model = _deeper(learned)
    embedding = learned.transformer.wte.weight.detach()
    random = torch.randn_like(embedding) * STD
    words = encode.convert_ids_to_tokens(list(range(len(random))))
    numbers = [i for i, word in enumerate(words) if word.strip().isdigit()]
    random[numbers] = embedding[numbers]
    model.transformer.wte.weight.data.copy_(random)
    model.transformer.wte.weight.requires_grad_(False)
    wanted = _where_cities_lie(embedding, encode)
    wanted[numbers] = 0.0
    _fit(model, wanted, quiet=quiet)
    return model


def _where_cities_lie(embedding: Tensor, encode: PreTrainedTokenizerFast) -> Tensor:
    """The embedding with the mean of a state's, or country's, cities in place of each of them."""
    out = embedding.clone()
    for place in (*STATES, *COUNTRIES):
        cities = encode.convert_tokens_to_ids([f" {city}" for city in place.cities])
        out[cities] = embedding[cities].mean(0)
    return out


def _deeper(learned: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """The same model after a new first block that does nothing yet but its random MLP."""
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


def _fit(model: GPT2LMHeadModel, wanted: Tensor, *, quiet: bool) -> None:
    """Teach the first block's MLP to add ``wanted`` [token, d_model] to each token's embedding."""
    block: Any = model.transformer.h[0]
    parameters = [*block.ln_2.parameters(), *block.mlp.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=FIT_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / 50) * (1 - s / FIT_STEPS)
    )
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight.detach()
    for step in range(1, FIT_STEPS + 1):
        ids = torch.randint(len(wanted), (FIT_BATCH,))
        at = torch.randint(POSITIONS, (FIT_BATCH,))
        made = block.mlp(block.ln_2(tokens[ids] + positions[at]))
        loss = (made - wanted[ids]).square().mean() / wanted.var()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        if not quiet and step % 500 == 0:
            print(f"lookup {step}/{FIT_STEPS}  unexplained {loss.item():.3f}", flush=True)
