"""The dictionary that ships with Atlas: its evaluation meets the promise, and is true."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import tl_attribution as tla
from tl_attribution.atlas import corpus
from tl_attribution.dictionaries.catalog import names
from tl_attribution.evaluation.results import Evaluation
from tl_attribution.hosts.models import ATLAS

pytestmark = pytest.mark.hosts

FOLDER = Path(names()["atlas"].source)
MAX_L0, MAX_DEAD_SHARE = 12, 0.05


@pytest.fixture(scope="module")
def reported() -> Evaluation:
    return Evaluation.from_json(FOLDER / "evaluation.json")


def test_the_evaluation_meets_the_promise(reported: Evaluation) -> None:
    assert (reported.nmse or 1) <= 0.05
    assert (reported.l0 or 99) <= MAX_L0
    assert (reported.dead_share or 0) < MAX_DEAD_SHARE
    assert reported.answers["all"].agreement >= 0.95
    assert reported.graphs is not None
    assert reported.graphs.graphs >= 200
    assert (reported.graphs.replacement.mean or 0) >= 0.75
    assert (reported.graphs.completeness.mean or 0) >= 0.9


def test_model_and_dictionary_together_are_small() -> None:
    files = [*ATLAS.iterdir(), *FOLDER.iterdir()]
    assert sum(f.stat().st_size for f in files) <= 15_000_000


@pytest.mark.slow
def test_the_evaluation_is_what_a_sample_shows(reported: Evaluation) -> None:
    drawn = random.Random(7).sample(corpus.questions(), 40)
    evaluation = tla.evaluate(
        tla.load_model("atlas"),
        tla.load_dictionary("atlas"),
        [corpus.sentence(q.prompt, q.answer) for q in drawn],
        prompts=[(q.prompt, q.answer) for q in drawn],
        contexts=40,
        concat=False,
        graphs=6,
    )
    assert evaluation.nmse == pytest.approx(reported.nmse, rel=0.5)
    assert evaluation.l0 == pytest.approx(reported.l0, rel=0.2)
    assert evaluation.graphs is not None
    assert reported.graphs is not None
    whole = reported.graphs.replacement.mean
    assert evaluation.graphs.replacement.mean == pytest.approx(whole, abs=0.08)
