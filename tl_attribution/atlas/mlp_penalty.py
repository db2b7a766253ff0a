"""Third stage of Atlas's training: penalties on MLP outputs that no later layer needs.

The next-token loss does not keep an MLP from writing what is never read, at every position, and a
dictionary has to spend features on it. Here the size of every neuron's output is penalized, and so
is the difference between the first MLP's outputs at cities of the same state or country.
"""

from __future__ import annotations

import random
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from tl_attribution.atlas.corpus import Fact

WRITE_WEIGHT = 0.05
"""Weight of the size of MLP outputs, relative to the next-token loss."""
CITY_WEIGHT = 0.5
"""Weight of the difference between cities of the same place."""
PLACES, CITIES = 16, 4
"""Number of places, and of cities of each, that are compared in a step."""


class WritePenalty:
    """Sum over neurons of activation × norm of the output weights, per token; relative to the first
    batch, mean over layers."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        blocks: Any = model.transformer.h
        self.mlps = [block.mlp for block in blocks]
        self.active: list[Tensor] = [torch.empty(0)] * len(self.mlps)
        self.baseline: Tensor | None = None
        self.hooks = [
            mlp.act.register_forward_hook(lambda _m, _i, out, at=layer: self._keep(at, out))
            for layer, mlp in enumerate(self.mlps)
        ]

    def _keep(self, layer: int, out: Tensor) -> None:
        self.active[layer] = out

    def penalty(self, is_token: Tensor) -> Tensor:
        """Penalty of the last forward pass over tokens where ``is_token`` [sentence, position]."""
        sizes = []
        for mlp, active in zip(self.mlps, self.active, strict=True):
            written = (active * mlp.c_proj.weight.norm(dim=1)).sum(-1)
            sizes.append((written * is_token).sum() / is_token.sum())
        size = torch.stack(sizes)
        if self.baseline is None:
            self.baseline = size.detach()
        return WRITE_WEIGHT * (size / self.baseline).mean()

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()


class CityPenalty:
    """Share of the variance of the first MLP's output at cities that is within a place (a state or
    country), in questions of the training text."""

    def __init__(
        self, model: GPT2LMHeadModel, facts: list[Fact], encode: PreTrainedTokenizerFast, seed: int
    ) -> None:
        self.model, self.rng = model, random.Random(seed)
        place = {f.key[1]: f.answer for f in facts if f.family in ("state", "country")}
        prompts: dict[str, dict[str, list[list[int]]]] = {}
        for fact in facts:
            city = fact.key[-1]
            if fact.key[0] == "city" and city in place:
                token = encode.convert_tokens_to_ids(f" {city}")
                rows = encode(list(fact.prompts))["input_ids"]
                rows = [ids[: ids.index(token) + 1] for ids in rows]
                prompts.setdefault(place[city], {}).setdefault(city, []).extend(rows)
        self.prompts = [cities for cities in prompts.values() if len(cities) >= CITIES]

    def penalty(self) -> Tensor:
        """The weighted share."""
        return CITY_WEIGHT * self.share()

    def share(self) -> Tensor:
        """The share, from 0 to 1, for newly sampled places and cities."""
        rows = [
            self.rng.choice(cities[city])
            for cities in self.rng.sample(self.prompts, PLACES)
            for city in self.rng.sample(sorted(cities), CITIES)
        ]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        last = torch.tensor([len(row) - 1 for row in rows])
        outputs: list[Tensor] = []
        block: Any = self.model.transformer.h[0]
        hook = block.mlp.register_forward_hook(lambda _m, _i, out: outputs.append(out))
        self.model.transformer(ids)
        hook.remove()
        written = outputs[0][torch.arange(len(rows)), last].unflatten(0, (PLACES, CITIES))
        within = (written - written.mean(1, keepdim=True)).square().sum()
        return within / (written - written.mean((0, 1))).square().sum()


class Penalties(NamedTuple):
    """Penalties added to the next-token loss."""

    writing: WritePenalty
    cities: CityPenalty


@torch.no_grad()
def mean_city_variance(
    model: GPT2LMHeadModel, facts: list[Fact], encode: PreTrainedTokenizerFast, draws: int = 50
) -> float:
    """Mean share of :class:`CityPenalty` over some draws."""
    cities = CityPenalty(model, facts, encode, seed=0)
    return fmean(float(cities.share()) for _ in range(draws))
