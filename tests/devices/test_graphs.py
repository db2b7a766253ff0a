"""Graphs of a model on a device are the processor's, in every mode, and their tensors come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.devices.pairs import Pair
from tests.models import D_MODEL
from tests.random_dictionaries import KINDS, transcoder
from tl_attribution import selection
from tl_attribution.errors import TooLargeError
from tl_attribution.graph.graph import Graph, tensors
from tl_attribution.replacement.active import ActiveFeatures

PROMPT = [1, 9, 20, 33]
MODES: dict[str, dict[str, Any]] = {
    "everything": {},
    "coverage": {"coverage": 0.8},
    "max_features": {"max_features": 12},
    "both": {"max_features": 20, "coverage": 0.9},
    "no features": {"max_features": 0},
    "autograd": {"engine": "autograd", "max_features": 4},
    "prefix": {"prefix": 0},
}
TARGETS: dict[str, Any] = {
    "token": " w3",
    "tokens at a position": [tla.TokenTarget(9, 3), 4],
    "difference": tla.DifferenceTarget(" w3", " w9"),
    "direction": tla.DirectionTarget(torch.ones(D_MODEL), layer=2, position=-2),
    "final direction and a token": [tla.DirectionTarget(torch.ones(D_MODEL)), " w3"],
}
pytestmark = pytest.mark.hosts


def numbers(graph: Graph) -> list[float]:
    c = graph.certificate
    return [c.active, c.expanded, c.unexpanded_influence, *c.replacement, *c.completeness]


def assert_same_graph(pair: Pair, there: Graph, here: Graph) -> None:
    columns = tensors(there)
    assert {t.device.type for t in columns.values()} == {"cpu"}
    assert there.nodes.labels == here.nodes.labels
    for name, expected in tensors(here).items():
        if expected.is_floating_point():
            pair.assert_same(columns[name], expected)
        else:
            assert torch.equal(columns[name], expected)
    assert numbers(there) == pytest.approx(numbers(here), abs=1e-5)
    assert there.residual() < 1e-4


def both(pair: Pair, kind: str = "clt-relu", **options: Any) -> tuple[Graph, Graph]:
    there = tla.attribute(pair.there, PROMPT, KINDS[kind](pair.there), **options)
    return there, tla.attribute(pair.here, PROMPT, KINDS[kind](pair.here), **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["clt-relu", "per-layer-skip", "neurons"])
def test_every_mode_gives_the_processors_graph(pair: Pair, kind: str, mode: str) -> None:
    assert_same_graph(pair, *both(pair, kind, **MODES[mode]))


def test_autograd_gives_the_processors_graph_of_every_feature(pair: Pair) -> None:
    assert_same_graph(pair, *both(pair, engine="autograd"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dictionary_gives_the_processors_graph(pair: Pair, kind: str) -> None:
    assert_same_graph(pair, *both(pair, kind))


@pytest.mark.parametrize("targets", TARGETS)
def test_every_target_gives_the_processors_graph(pair: Pair, targets: str) -> None:
    assert_same_graph(pair, *both(pair, targets=TARGETS[targets], coverage=0.7))


def test_features_as_targets_give_the_processors_graph(pair: Pair) -> None:
    active = tla.features(pair.here, PROMPT, transcoder())
    assert isinstance(active, ActiveFeatures)
    rows = torch.stack([active.layer, active.position, active.index], 1)[-2:].tolist()
    wanted = [tla.FeatureTarget(*row) for row in rows]
    assert_same_graph(pair, *both(pair, targets=wanted, max_features=6))
    assert_same_graph(pair, *both(pair, targets=[*wanted, " w3"]))


def test_a_prompt_may_lie_on_the_device(pair: Pair) -> None:
    ids = torch.tensor(PROMPT, device=pair.device)
    there = tla.attribute(pair.there, ids, transcoder())
    assert there == tla.attribute(pair.there, PROMPT, transcoder())
    assert tla.attribute(pair.here, ids, transcoder()).about.token_ids == tuple(PROMPT)


def test_a_graph_needs_the_processors_memory_and_a_partial_one_the_devices_too(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(device: torch.device) -> int:
        return 2**40 if device.type == "cpu" else 1000

    monkeypatch.setattr(selection, "free_memory", free)
    assert len(tla.attribute(pair.there, PROMPT, transcoder()).nodes)
    with pytest.raises(TooLargeError, match=f"are free on {pair.device}:0; ask for less"):
        tla.attribute(pair.there, PROMPT, transcoder(), coverage=0.9)
