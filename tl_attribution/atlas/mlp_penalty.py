"""Atlas's third stage: MLPs that are silent where they have nothing to say.

Nothing in the usual loss keeps an MLP from writing what is never read, at every position, and a
dictionary has to spend features on it. Here what every neuron writes has a price, and so has what
the first MLP says of one city of a state and not of the others.
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

PRICE = 0.05
"""Weight of what MLPs write beside the next-token loss."""
UNLIKE = 0.5
"""Weight of the difference between a place's cities."""
PLACES, CITIES = 16, 4
"""How many places, and cities of each, are compared at a step."""


class Writing:
    """Σ over neurons of activation · ‖what the neuron writes‖, a token; mean over layers of what it
    is relative to the first batch."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        blocks: Any = model.transformer.h
        self.mlps = [block.mlp for block in blocks]
        self.active: list[Tensor] = [torch.empty(0)] * len(self.mlps)
        self.first: Tensor | None = None
        self.hooks = [
            mlp.act.register_forward_hook(lambda _m, _i, out, at=layer: self._keep(at, out))
            for layer, mlp in enumerate(self.mlps)
        ]

    def _keep(self, layer: int, out: Tensor) -> None:
        self.active[layer] = out

    def penalty(self, real: Tensor) -> Tensor:
        """Of the last forward pass, over the tokens that are ``real`` [sentence, position]."""
        sizes = []
        for mlp, active in zip(self.mlps, self.active, strict=True):
            written = (active * mlp.c_proj.weight.norm(dim=1)).sum(-1)
            sizes.append((written * real).sum() / real.sum())
        size = torch.stack(sizes)
        if self.first is None:
            self.first = size.detach()
        return PRICE * (size / self.first).mean()

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self.hooks:
            hook.remove()


class Alike:
    """Share of the variance of what the first MLP writes at cities that lies within a place, a
    state or country, in questions of the training text."""

    def __init__(
        self, model: GPT2LMHeadModel, facts: list[Fact], encode: PreTrainedTokenizerFast, seed: int
    ) -> None:
        self.model, self.rng = model, random.Random(seed)
        place = {f.key[1]: f.answer for f in facts if f.family in ("state", "country")}
        asked: dict[str, dict[str, list[list[int]]]] = {}
        for fact in facts:
            city = fact.key[-1]
            if fact.key[0] == "city" and city in place:
                token = encode.convert_tokens_to_ids(f" {city}")
                rows = encode(list(fact.prompts))["input_ids"]
                rows = [ids[: ids.index(token) + 1] for ids in rows]
                asked.setdefault(place[city], {}).setdefault(city, []).extend(rows)
        self.asked = [cities for cities in asked.values() if len(cities) >= CITIES]

    def penalty(self) -> Tensor:
        """What the share costs."""
        return UNLIKE * self.share()

    def share(self) -> Tensor:
        """From 0 to 1, of some places and cities drawn anew."""
        rows = [
            self.rng.choice(cities[city])
            for cities in self.rng.sample(self.asked, PLACES)
            for city in self.rng.sample(sorted(cities), CITIES)
        ]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        last = torch.tensor([len(row) - 1 for row in rows])
        found: list[Tensor] = []
        block: Any = self.model.transformer.h[0]
        hook = block.mlp.register_forward_hook(lambda _m, _i, out: found.append(out))
        self.model.transformer(ids)
        hook.remove()
        made = found[0][torch.arange(len(rows)), last].unflatten(0, (PLACES, CITIES))
        within = (made - made.mean(1, keepdim=True)).square().sum()
        return within / (made - made.mean((0, 1))).square().sum()


class Prices(NamedTuple):
    """What is paid beside the next-token loss."""

    writing: Writing
    alike: Alike


@torch.no_grad()
def unlike(
    model: GPT2LMHeadModel, facts: list[Fact], encode: PreTrainedTokenizerFast, draws: int = 50
) -> float:
    """The share of :class:`Alike`, mean of some draws."""
    alike = Alike(model, facts, encode, seed=0)
    return fmean(float(alike.share()) for _ in range(draws))
