"""What the studies share: classes told apart, swaps, and controls of the same size."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tl_attribution as tla

pytest.importorskip("matplotlib", reason="the docs extra is not installed")
FOLDER = Path(__file__).parents[2] / "benchmarks" / "biology"


@pytest.fixture(scope="module")
def concepts() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import concepts
    finally:
        sys.path.pop(0)
    return concepts


def test_a_feature_of_one_class_alone_is_wholly_selective(concepts: ModuleType) -> None:
    values = torch.zeros(4, 1, 1, 3)
    values[:2, ..., 0] = 2.0  # the first class's
    values[..., 1] = 5.0  # everybody's
    means = concepts.class_means(values, [0, 0, 1, 1])
    assert means[:, 0, 0].tolist() == [[2.0, 5.0, 0.0], [0.0, 5.0, 0.0]]
    assert concepts.selectivity(means)[:, 0, 0].tolist() == [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]


def test_precision_and_recall_are_counted_where_a_feature_is_clearly_active(
    concepts: ModuleType,
) -> None:
    values = torch.zeros(5, 1, 1, 3)
    values[[0, 1, 3], ..., 0] = torch.tensor([1.0, 0.9, 0.4])[:, None, None]  # a miss, a false one
    values[3:, ..., 1] = 2.0
    values[0, ..., 1] = 0.5  # too faint to count
    scores = concepts.class_scores(values, [0, 0, 0, 1, 1])
    assert scores.precision[0, 0, 0].tolist() == pytest.approx([2 / 3, 0, 0])
    assert scores.recall[0, 0, 0].tolist() == pytest.approx([2 / 3, 0, 0])
    assert scores.f1[:, 0, 0].tolist() == [pytest.approx([2 / 3, 0, 0]), pytest.approx([0.4, 1, 0])]


def concept(concepts: ModuleType) -> object:
    """Two classes, two positions, two layers, eight features, of which three are members."""
    means = torch.arange(64.0).view(2, 2, 2, 8)
    members = torch.zeros(2, 2, 2, 8, dtype=torch.bool)
    members[0, 0, 0, 1] = members[1, 0, 0, 2] = members[1, 1, 1, 5] = True
    active = torch.zeros(2, 2, 8, dtype=torch.bool)
    active[:, :, :5] = True
    return concepts.Concept((-2, -1), means, members, active)


def test_a_swap_holds_both_classes_features_at_the_targets_means(concepts: ModuleType) -> None:
    swapped = concept(concepts)
    values = {(c.layer, c.position, c.feature): c.value for c in swapped.swap(0, 1)}
    assert values == {(0, -2, 1): 33.0, (0, -2, 2): 34.0, (1, -1, 5): 61.0}
    assert [c.feature for c in swapped.within(layers=[1]).swap(0, 1)] == [5]
    assert [c.feature for c in swapped.within(positions=[-2]).swap(0, 1)] == [1, 2]
    assert swapped.size() == 1.5


def test_a_control_differs_in_its_features_alone(concepts: ModuleType) -> None:
    tested_concept = concept(concepts)
    swap = tested_concept.swap(0, 1)
    for seed in range(20):
        control = concepts.random_control(swap, tested_concept, random.Random(seed))
        assert [(c.layer, c.position, c.value) for c in control] == [
            (c.layer, c.position, c.value) for c in swap
        ]
        assert not {(c.layer, c.position, c.feature) for c in control} & {
            (c.layer, c.position, c.feature) for c in swap
        }
        assert all(c.feature < 5 for c in control)  # active ones
        assert control[0].feature != control[1].feature


def test_activations_are_those_of_each_prompt_alone(concepts: ModuleType) -> None:
    atlas = concepts.load()
    prompts = ["Fact: the state containing Dallas is", "Le contraire de petit est"]
    together = concepts.activations(atlas, prompts, (-2, -1))
    for prompt, values in zip(prompts, together, strict=True):
        alone = tla.intervene(atlas.model, prompt, atlas.dictionary, []).activations
        torch.testing.assert_close(values, alone[:, -2:].transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_the_answers_are_the_models(concepts: ModuleType) -> None:
    atlas = concepts.load()
    prompts = ["Fact: the capital of Texas is", "calc: 2 + 3 ="]
    expected = [concepts.token(atlas, word) for word in ("Austin", "5")]
    assert concepts.answers(atlas, prompts) == expected
    nothing = [
        concepts.Swap(prompt, [], want) for prompt, want in zip(prompts, expected, strict=True)
    ]
    assert concepts.outcomes(atlas, nothing) == expected
