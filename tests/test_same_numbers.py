"""The public functions compute what they computed when ``same_numbers.safetensors`` was written:
graphs, interventions, evaluations and trained weights, on random models and on Atlas. Floats within
what processors differ by, everything discrete exactly.

A change that is meant to change numbers writes the file anew, and says so in the changelog:
``python benchmarks/same_numbers.py summarize tests/same_numbers.safetensors``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REFERENCE = Path(__file__).with_name("same_numbers.safetensors")
RELATIVE, ABSOLUTE = 3e-4, 1e-5
BOTH_HOSTS = all(
    importlib.util.find_spec(f"transformer_lens.{name}")
    for name in ("HookedTransformer", "model_bridge")
)


def reference_cases() -> list[str]:
    with safe_open(REFERENCE, "pt") as file:
        return sorted(file.metadata())


def load(case: str) -> tuple[list[str], dict[str, Tensor]]:
    with safe_open(REFERENCE, "pt") as file:
        kept = {name: file.get_tensor(f"{case}/{name}") for name in ("sizes", "floats", "digests")}
        return file.metadata()[case].split("\n"), kept


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("same_numbers")
    for name in ("same_numbers", "number_cases", "random_hosts"):
        sys.modules.pop(name, None)


def unlike(names: list[str], before: dict[str, Tensor], now: dict[str, Tensor]) -> list[str]:
    """Names of results that differ by more than rounding."""
    discrete = before["digests"] != now["digests"]
    changed = []
    sizes = before["sizes"].tolist()
    for name, differs, a, b in zip(
        names,
        discrete.tolist(),
        before["floats"].split(sizes),
        now["floats"].split(now["sizes"].tolist()),
        strict=True,
    ):
        if differs or not torch.allclose(b, a, rtol=RELATIVE, atol=ABSOLUTE):
            changed.append(name)
    return changed


@pytest.mark.skipif(not BOTH_HOSTS, reason="needs HookedTransformer and TransformerBridge")
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow) if c == "atlas" else c for c in reference_cases()],
)
def test_the_public_functions_compute_what_they_did(case: str, same_numbers: Any) -> None:
    names, before = load(case)
    names_now, now = same_numbers.summarized(same_numbers.CASES[case]())
    assert names_now == names
    assert unlike(names, before, now) == []


def test_the_reference_holds_every_case(same_numbers: Any) -> None:
    assert sorted(same_numbers.CASES) == reference_cases()
