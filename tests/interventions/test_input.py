"""What cannot be changed is refused, and the message says why."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import HOSTS, tiny
from tests.random_dictionaries import FEATURES, transcoder
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.graph import Graph
from tl_attribution.interventions.intervention import as_list

PROMPT = [1, 9, 20, 33, 9, 41]
ONE = tla.Intervention(1, 2, 3, 1.0)

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2", HOSTS[0])


@pytest.fixture(scope="module")
def graph(model: Any) -> Graph:
    return tla.attribute(model, PROMPT, transcoder())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer": 3}, "layer 3 of .* does not exist; the dictionary has layers 0 to 2"),
        ({"layer": -1}, "layer -1 of"),
        ({"feature": FEATURES}, f"feature {FEATURES} of .* has features 0 to {FEATURES - 1}"),
        ({"position": 6}, "position 6 of .* is outside the prompt's 6 tokens"),
        ({"position": -7}, "position -7 of"),
        ({"position": (2, 9)}, "position 9 of"),
        ({"position": ()}, "has no position"),
        ({"position": 0}, r"in the prefix of 1 tokens.*prefix=0"),
        ({"position": slice(6, None)}, "reaches none of the prompt's 6 tokens"),
        ({"position": slice(0, 1)}, "reaches none"),
    ],
)
def test_places_that_do_not_exist(model: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tla.intervene(model, PROMPT, transcoder(), replace(ONE, **changed))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    with pytest.raises(InputError, match="feature 3 of layer 1 cannot be held at"):
        tla.Intervention(1, 2, 3, value)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"propagation": "both"}, "propagation must be one of direct, constrained, iterative"),
        ({"mlps": "mine"}, "mlps must be one of"),
        ({"propagation": "direct", "freeze_attention": False}, "with attention frozen"),
        ({"propagation": "constrained"}, "go together"),
        ({"layers": range(0, 2)}, "go together"),
        ({"propagation": "constrained", "layers": range(0, 4)}, "0 <= a < b <= 3, got range"),
        ({"propagation": "constrained", "layers": range(2, 1)}, "0 <= a < b"),
        ({"propagation": "constrained", "layers": range(0, 1)}, "layer 1 write to no layer of"),
        ({"propagation": "direct", "mlps": "replacement"}, "recompute no MLP"),
    ],
)
def test_modes_that_exclude_each_other(model: Any, mode: dict[str, Any], message: str) -> None:
    intervene = inspect.unwrap(tla.intervene)  # without the tests' check of types
    with pytest.raises(InputError, match=message):
        intervene(model, PROMPT, transcoder(), ONE, **mode)


def test_one_feature_is_not_held_in_two_ways(model: Any) -> None:
    again = replace(ONE, position=slice(1, 4), value=2.0)
    with pytest.raises(InputError, match="at position 2 is held twice: set 1 and set 2"):
        tla.intervene(model, PROMPT, transcoder(), [ONE, again])
    with pytest.raises(InputError, match="held twice: set 1 and scale 1"):
        tla.intervene(model, PROMPT, transcoder(), [ONE, replace(ONE, how="scale")])
    same = tla.intervene(model, PROMPT, transcoder(), [ONE, replace(ONE)])
    alone = tla.intervene(model, PROMPT, transcoder(), ONE)
    assert torch.allclose(same.logits, alone.logits)


def test_what_is_no_intervention(model: Any, graph: Graph) -> None:
    for wrong in ("1:2:3", 7, [(1, 2, 3, 4.0)]):
        with pytest.raises(InputError, match="expected an Intervention"):
            as_list(wrong)
    unchecked = replace(ONE)
    object.__setattr__(unchecked, "how", "ablate")  # past the tests' check of types
    with pytest.raises(InputError, match="how must be one of set, scale, add"):
        unchecked.__post_init__()
    with pytest.raises(InputError, match="only features can be changed"):
        tla.supernode([graph.nodes[len(graph.nodes) - 1]], 0.0)
    with pytest.raises(InputError, match="at least one feature"):
        tla.supernode([], 0.0)
    with pytest.raises(InputError, match="rows must be at least 1"):
        tla.intervene_each(model, PROMPT, transcoder(), [ONE], rows=0)


def test_graphs_of_another_model_or_dictionary(model: Any, graph: Graph) -> None:
    tla.intervene(model, graph, transcoder(), ONE)
    other = replace(graph, metadata=replace(graph.metadata, model="gpt2-xl"))
    with pytest.raises(MismatchError, match="another model: 'gpt2-xl', not 'tiny-gpt2'"):
        tla.intervene(model, other, transcoder(), ONE)
    with pytest.raises(MismatchError, match="another kind of dictionary"):
        tla.intervene(model, graph, transcoder(cross=False), ONE)
    with pytest.raises(MismatchError, match="other weights of the model or the dictionary"):
        tla.intervene(model, graph, transcoder(seed=1), ONE)
    with pytest.raises(InputError, match="the graph's prefix is 1"):
        tla.intervene(model, graph, transcoder(), ONE, prefix=0)
    neurons = tla.attribute(model, PROMPT, tla.neurons(model))
    indices = replace(neurons, metadata=replace(neurons.metadata, dictionary=transcoder().kind))
    with pytest.raises(MismatchError, match="other weights"):
        tla.intervene(model, indices, transcoder(), ONE)
    wrong = transcoder()
    wrong.model_name = "gpt2-xl"
    with pytest.raises(MismatchError, match="trained on 'gpt2-xl'"):
        tla.intervene(model, PROMPT, wrong, ONE)
