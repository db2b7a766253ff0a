"""Models that the adapter cannot serve are refused with the name of the missing part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import HOSTS, VOCAB
from tests.random_dictionaries import transcoder
from tl_attribution.errors import NotFoundError, UnsupportedModelError

PROMPT = [1, 9, 20]

pytestmark = pytest.mark.hosts


def _small(**options: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "n_ctx": 16}
    return HookedTransformer(
        HookedTransformerConfig(**sizes, d_vocab=VOCAB, device="cpu", **options)
    )


@pytest.mark.skipif("hooked" not in HOSTS, reason="needs HookedTransformer")
@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"attn_only": True}, "has no mlp, ln2"),
        ({"act_fn": "relu", "normalization_type": None}, "has no ln_final"),
        ({"act_fn": "relu", "d_mlp": 16, "num_experts": 2, "experts_per_token": 1}, "not a plain"),
    ],
    ids=["attention only", "no norms", "mixture of experts"],
)
def test_architectures_without_a_part_are_named(options: dict[str, Any], lacking: str) -> None:
    model = _small(**options)

    def trace() -> None:
        tla.attribute(model, PROMPT, transcoder())
        tla.neurons(model)

    with pytest.raises(UnsupportedModelError, match=lacking):
        trace()


@pytest.mark.skipif("hooked" not in HOSTS, reason="needs HookedTransformer")
def test_an_activation_that_is_not_pointwise_is_named() -> None:
    model = _small(act_fn="solu_ln", d_mlp=16)
    with pytest.raises(NotFoundError, match="MLP activation 'solu_ln' is not supported"):
        tla.attribute(model, PROMPT, tla.neurons(model))


@pytest.mark.skipif("hooked" not in HOSTS, reason="needs HookedTransformer")
def test_a_model_without_a_tokenizer_takes_ids_only() -> None:
    model = _small(act_fn="relu", d_mlp=16, normalization_type="LN")
    graph = tla.attribute(model, torch.tensor(PROMPT), transcoder())
    assert graph.metadata.tokens == ("1", "9", "20")
    assert graph.metadata.prefix == 0
    with pytest.raises(tla.InputError, match="has no tokenizer"):
        tla.attribute(model, "hello", transcoder())
