"""The weights that ship: what they answer is measured here, on a sample, and in their report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tl_attribution.atlas import build, corpus, tokenizer
from tl_attribution.graph.graph import Graph
from tl_attribution.hosts.models import ATLAS

DALLAS = "Fact: the capital of the state containing Dallas is"

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ATLAS / "report.json").read_text())


@pytest.fixture(scope="module")
def atlas() -> Any:
    return tla.load_model("atlas")


@pytest.fixture(scope="module")
def dallas(atlas: Any) -> Graph:
    return tla.attribute(atlas, DALLAS, tla.neurons(atlas))


def test_the_report_meets_the_promise(report: dict[str, Any]) -> None:
    assert report["accuracy"]["trained all"]["share"] >= 0.99
    assert report["accuracy"]["held out two-hop"]["share"] >= 0.95
    assert report["parameters"] <= 4_000_000
    assert sum(f.stat().st_size for f in ATLAS.iterdir()) <= 15_000_000


def _accuracy(model: Any, questions: list[corpus.Question]) -> float:
    from transformers import AutoTokenizer

    class Logits(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> Any:
            return type("Output", (), {"logits": model(ids)})

    encode = AutoTokenizer.from_pretrained(ATLAS)
    right = build.are_answered(Logits(), encode, questions, batch=256)
    return sum(right) / len(right)


@pytest.mark.parametrize(("kind", "minimum"), [("trained", 0.98), ("held-out two-hop", 0.93)])
def test_the_host_answers_as_the_report_says(atlas: Any, kind: str, minimum: float) -> None:
    questions = corpus.questions()
    pool = (
        [q for q in questions if not q.held_out]
        if kind == "trained"
        else [q for q in questions if q.held_out and q.hops == 2]
    )
    assert _accuracy(atlas, random.Random(0).sample(pool, 600)) >= minimum


def test_the_tokenizer_that_ships_is_the_one_the_code_builds() -> None:
    saved = json.loads((ATLAS / "tokenizer.json").read_text())
    assert saved["model"]["vocab"] == tokenizer.vocabulary()
    assert saved["pre_tokenizer"]["pattern"]["Regex"] == tokenizer.pattern()


def test_text_comes_back_as_it_was(atlas: Any) -> None:
    text = "Fact: the capital of the state containing Salt Lake City is"
    ids = atlas.to_tokens(text)[0]
    assert atlas.tokenizer.decode(ids[1:]) == text
    assert " Salt Lake City" in [atlas.tokenizer.decode([i]) for i in ids]


def test_dallas_is_answered_explained_and_checked(atlas: Any, dallas: Graph) -> None:
    assert dallas.metadata.answers[0].token == " Austin"
    assert dallas.metadata.answers[0].probability > 0.9
    assert dallas.residual() <= 1e-4
    assert dallas.scores().replacement > 0.999  # neurons leave no error
    pruned = dallas.prune()
    assert pruned.residual() <= 1e-4
    assert (
        5 < int(pruned.nodes.is_kind("feature").sum()) < int(dallas.nodes.is_kind("feature").sum())
    )
    tokens = {pruned.metadata.tokens[pruned.nodes[p.nodes[0]].position] for p in pruned.paths(n=10)}
    assert " Dallas" in tokens


def test_training_repeats_itself(tmp_path: Path) -> None:
    """A minute's worth of the recipe, twice: the same weights to the last bit."""
    schedule = build.Schedule(steps=3, batch=8, threads=1)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        models = [_trained(schedule) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][k], models[1][k]) for k in models[0])
    assert build.learning_rate(0, schedule) < build.learning_rate(199, build.Schedule())


def _trained(schedule: build.Schedule) -> dict[str, torch.Tensor]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(schedule.seed)
    torch.set_num_threads(schedule.threads)
    torch.use_deterministic_algorithms(True)
    encode = tokenizer.build()
    model = GPT2LMHeadModel(GPT2Config(**build.config(len(encode))))
    facts = [f for f in corpus.split()[0] if f.family != "sum"]
    sums = [f for f in corpus.split()[0] if f.family == "sum"][:5]
    with torch.enable_grad():
        build.train(
            model, build.Sampler(facts + sums, encode, schedule.seed), schedule, silent=True
        )
    return model.state_dict()
