"""The penalties of Atlas's third stage: on MLP outputs, and on differences between cities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tl_attribution.atlas import build, corpus, mlp_penalty, tokenizer
from tl_attribution.atlas.tables import COUNTRIES, STATES

PLACE_OF = {c: p.name for p in (*STATES, *COUNTRIES) for c in p.cities}


@pytest.fixture(scope="module")
def encode() -> Any:
    return tokenizer.build()


@pytest.fixture
def model(encode: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    small = build.config(len(encode)) | {"n_layer": 2, "n_embd": 32, "n_inner": 64}
    return GPT2LMHeadModel(GPT2Config(**small)).eval()


@torch.no_grad()
def test_writing_is_what_active_neurons_write_relative_to_the_first_batch(model: Any) -> None:
    writing = mlp_penalty.WritePenalty(model)
    ids = torch.randint(3, 100, (4, 6))
    ids[0, 4:] = 0
    real = (ids != 0).float()
    model(ids)
    assert float(writing.penalty(real)) == pytest.approx(mlp_penalty.WRITE_WEIGHT)
    model(torch.where(ids == 0, 7, ids))  # what stands where nothing is said costs nothing
    assert float(writing.penalty(real)) == pytest.approx(mlp_penalty.WRITE_WEIGHT, rel=1e-5)
    last = model.transformer.h[1].mlp.c_proj.weight
    last *= 3  # of the last layer, so that nothing else changes
    model(ids)
    assert float(writing.penalty(real)) == pytest.approx(
        mlp_penalty.WRITE_WEIGHT * (1 + 3) / 2, rel=1e-5
    )
    writing.remove()
    model(torch.randint(3, 100, (1, 2)))
    assert len(writing.active[0]) == 4


def _written_instead(model: Any, encode: Any, of_city: float) -> list[tuple[str, Tensor]]:
    """Make the first MLP write a vector of the last token's place, and so much of the city's own;
    returns where what it wrote is kept, with the city."""
    torch.manual_seed(1)
    places = {name: torch.randn(32) for name in PLACE_OF.values()}
    city_vectors = {city: torch.randn(32) for city in PLACE_OF}
    seen: list[Tensor] = []
    kept: list[tuple[str, Tensor]] = []
    model.transformer.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))

    def write(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
        written = torch.zeros_like(out)
        for i, row in enumerate(seen[-1].tolist()):
            last = max(at for at, token in enumerate(row) if token)
            city = encode.decode([row[last]]).strip()
            written[i, last] = places[PLACE_OF[city]] + of_city * city_vectors[city]
            kept.append((PLACE_OF[city], written[i, last]))
        return written

    model.transformer.h[0].mlp.register_forward_hook(write)
    return kept


@pytest.mark.parametrize("of_city", [0.0, 0.5, 2.0])
@torch.no_grad()
def test_unlike_is_the_share_of_the_variance_within_places(
    model: Any, encode: Any, of_city: float
) -> None:
    kept = _written_instead(model, encode, of_city)
    penalty = mlp_penalty.CityPenalty(model, corpus.split()[0], encode, seed=0)
    share_measured = float(penalty.share())
    written = torch.stack([vector for _, vector in kept])
    names = [place for place, _ in kept]
    assert len(set(names)) == mlp_penalty.PLACES
    within = 0.0
    for name in set(names):
        vectors = written[[n == name for n in names]]
        assert len(vectors) == mlp_penalty.CITIES
        within += float((vectors - vectors.mean(0)).square().sum())
    share = within / float((written - written.mean(0)).square().sum())
    assert share_measured == pytest.approx(share, abs=1e-6)
    assert (share < 1e-9) == (of_city == 0)
    mean = mlp_penalty.mean_city_variance(model, corpus.split()[0], encode, draws=3)
    assert mean == pytest.approx(share, abs=0.1)
