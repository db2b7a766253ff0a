"""A configuration refuses what cannot be trained, and its schedules are what it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tl_attribution import InputError, TrainingConfig


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"tokens": 100_000, "batch_size": 1000, "buffer_size": 4000, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 5000}, "k=5000 must lie between 1 and n_features=4096"),
        ({"k_start": 5000}, "k_start=5000"),
        ({"k": 0}, "k must be at least 1"),
        ({"tokens": 10}, "tokens=10 is less than one batch"),
        ({"buffer_size": 10}, "buffer_size=10 is less than one batch"),
        ({"feature_shards": 3}, "cannot be divided"),
        ({"kind": "transcoders", "window": 2}, "needs kind='clt'; got window=2"),
        ({"warmup": 0.9}, "more than the run"),
        ({"decay": 1.5}, "a share from 0 to 1"),
        ({"clip": float("nan")}, "clip must be above 0"),
        ({"sparsity_coefficient": -1.0}, "must not be negative"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        config(**changes)


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("activation", "gelu", "batchtopk, topk, jumprelu, relu"),
        ("kind", "sae", "clt, transcoders"),
        ("dtype", "float16", "float32, bfloat16"),
    ],
)
def test_a_value_that_is_not_a_choice_is_refused_with_the_choices(
    name: str, value: str, choices: str
) -> None:
    changed = config()
    object.__setattr__(changed, name, value)  # past the type checks of the tests
    with pytest.raises(InputError, match=f"{name} must be one of {choices}; got {value!r}"):
        changed.__post_init__()


def test_the_rate_warms_up_stays_and_falls_in_the_last_fifth() -> None:
    c = config(learning_rate=1.0, warmup=0.1)
    rates = [c.learning_rate_at(s) for s in range(c.steps)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[-1] <= 0.05


def test_k_falls_to_its_final_value_and_the_penalty_rises_over_the_run() -> None:
    c = config(k=8, k_start=48, k_anneal=0.5)
    assert [c.k_at(s) for s in (0, 25, 50, 99)] == [48, 28, 8, 8]
    assert [config(k=8).k_at(s) for s in (0, 30, 60, 99)] == [32, 20, 8, 8]
    assert config(k=8, n_features=20).k_at(0) == 20
    assert {config(k=8, k_start=8).k_at(s) for s in range(100)} == {8}
    assert c.sparsity_at(0) == 0
    assert c.sparsity_at(c.steps - 1) == c.sparsity_coefficient


def test_a_window_limits_what_is_written() -> None:
    assert [config(window=2).n_written(i, 4) for i in range(4)] == [2, 2, 2, 1]
    assert [config().n_written(i, 4) for i in range(4)] == [4, 3, 2, 1]
    assert [config(kind="transcoders").n_written(i, 4) for i in range(4)] == [1, 1, 1, 1]


def test_every_field_explains_itself() -> None:
    import inspect

    source = inspect.getsource(TrainingConfig)
    for field in dataclasses.fields(TrainingConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name
