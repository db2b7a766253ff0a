"""The studies of Atlas run as notebooks, hold what they claim, and are what docs/biology shows."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("jupytext", reason="the docs extra is not installed")
pytest.importorskip("nbclient", reason="the docs extra is not installed")

ROOT = Path(__file__).parents[2]
SCRIPTS = (ROOT / "benchmarks" / "biology").glob("*.py")
STUDIES = sorted(path.stem for path in SCRIPTS if "# %% [markdown]" in path.read_text())
NOISE = 0.02
"""How far a rate may be from the one that is shown, on another machine: a logit may tie."""

LEAST = {
    "two_hops": 0.80, "countries": 0.65, "languages": 0.70, "addition": 0.60, "days": 0.90,
    "people": 0.90,
}  # fmt: skip
"""The rate that each test of a study must reach."""
MOST_CONTROL = {
    "two_hops": 0.05, "countries": 0.10, "languages": 0.10, "addition": 0.05, "days": 0.30,
    "people": 0.05,
}  # fmt: skip
"""What its control may reach. Where few answers are possible (seven days, two directions), or a
disturbed question falls back on its commoner answer, some come by chance."""


@pytest.fixture(scope="module")
def run() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks" / "biology"))
    try:
        import run
    finally:
        sys.path.pop(0)
    return run


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, Any]]:
    return json.loads((ROOT / "docs" / "biology" / "results.json").read_text())


def close(one: Any, other: Any) -> bool:
    """Whether two results are the same but for noise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=NOISE, abs_tol=NOISE)
    return one == other


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_finds_what_is_shown(
    study: str, run: ModuleType, shown: dict[str, dict[str, Any]]
) -> None:
    results = run.results_of(run.execute(study))
    assert close(results, shown[study]), (results, shown[study])


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_reaches_its_rates(study: str, shown: dict[str, dict[str, Any]]) -> None:
    for test in shown[study]["tests"]:
        assert test["rate"] >= LEAST[study], test
        assert test["control"] <= MOST_CONTROL[study], test


def test_the_dallas_graph_holds_a_feature_of_texas(shown: dict[str, dict[str, Any]]) -> None:
    study = shown["two_hops"]
    best = max(study["texas"].values(), key=lambda detector: detector["f1"])
    assert best["place"] <= study["features_in_the_graph"] / 3  # by influence
    assert min(best["precision"], best["recall"]) >= 0.8


def test_the_index_is_that_of_the_results(
    run: ModuleType, shown: dict[str, dict[str, Any]]
) -> None:
    assert set(shown) == set(STUDIES)
    assert (ROOT / "docs" / "biology" / "README.md").read_text() == run.index(shown)
