"""``tla.evaluate`` in batches against the same sums, one context and one replacement at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_attribution as tla
from tests.models import FAMILIES, HOSTS, N_LAYERS, RAW_HOSTS, VOCAB, tiny
from tests.random_dictionaries import FEATURES, KINDS, transcoder
from tl_attribution.evaluation.metrics import ReconstructionSums, density
from tl_attribution.replacement import context_batch
from tl_attribution.replacement.prompt_run import attach
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.training.contexts import Contexts

pytestmark = pytest.mark.hosts

CONTEXTS = [
    [1, 9, 20, 33, 9, 41, 7],
    [1, 30],
    [8, 9, 10, 4, 40, 22],
    [1, 6, 6, 7, 31, 12, 50, 23, 3, 18, 1],
    [5, 1, 2],
]
"""Of different lengths; two have no BOS, so no prefix, and one has it elsewhere too."""

Replace = Callable[[int, Tensor, Tensor], Tensor]


def rows() -> Contexts:
    width = max(map(len, CONTEXTS)) + 1
    ids = [c + [0] * (width - len(c)) for c in CONTEXTS]
    return Contexts(torch.tensor(ids), torch.tensor([len(c) for c in CONTEXTS]))


def only(replaced: int, output: Tensor) -> Replace:
    return lambda layer, x, out: output if layer == replaced else out


class OneByOne:
    """One forward pass per context and replacement, the prefix left as it is."""

    def __init__(self, model: Any, dictionary: tla.Dictionary) -> None:
        self.attached = attach(model, dictionary)
        self.layers = [
            ReconstructionSums(dictionary.d_model, dictionary.n_features) for _ in range(N_LAYERS)
        ]
        self.tokens: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for context in CONTEXTS:
            self.add(torch.tensor(context))

    def add(self, ids: Tensor) -> None:
        dictionary, start = self.attached.dictionary, int(ids[0] == 1)
        read: list[Tensor] = []
        written: list[Tensor] = []
        active: list[ActiveColumns] = []

        def record(layer: int, x: Tensor, out: Tensor) -> Tensor:
            read.append(x)
            written.append(out)
            return out

        def replacement(layer: int, x: Tensor, out: Tensor) -> Tensor:
            active.append(encode_columns(dictionary, layer, x))
            return reconstruct(dictionary, active, layer, x, out)

        own = self.run(ids, start, record)
        on_model: list[ActiveColumns] = []
        for layer, (x, out) in enumerate(zip(read, written, strict=True)):
            on_model.append(encode_columns(dictionary, layer, x))
            output = reconstruct(dictionary, on_model, layer, x, out)
            self.layers[layer].add(on_model[-1], out, output)
            self.count(f"layer {layer}", ids, own, self.run(ids, start, only(layer, output)))
            zeros = self.run(ids, start, only(layer, torch.zeros_like(out)))
            self.count(f"ablated {layer}", ids, own, zeros)
        self.count("model", ids, own, own)
        self.count("all", ids, own, self.run(ids, start, replacement))
        nothing = self.run(ids, start, lambda layer, x, out: torch.zeros_like(out))
        self.count("ablated", ids, own, nothing)

    def run(self, ids: Tensor, start: int, replace: Replace) -> Tensor:
        sites = self.attached.sites
        logits = sites.host.run_replacing_mlps(
            ids,
            sites.read_site,
            sites.write_site,
            lambda layer, x, out: torch.cat([out[:start], replace(layer, x[start:], out[start:])]),
        )
        return logits[start:].double()

    def count(self, name: str, ids: Tensor, own: Tensor, other: Tensor) -> None:
        p, q = own.log_softmax(-1), other.log_softmax(-1)
        following = ids[len(ids) - len(p) + 1 :]
        same = own.argmax(-1) == other.argmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)
        loss = -q[torch.arange(len(following)), following]
        self.tokens.setdefault(name, []).append((same.double(), kl, loss))

    def mean(self, name: str) -> tuple[float, float, float]:
        same, kl, loss = (torch.cat(column) for column in zip(*self.tokens[name], strict=True))
        return float(same.mean()), float(kl.mean()), float(loss.mean())

    def replaced(self, name: str, ablated: str) -> dict[str, float]:
        agreement, kl, loss = self.mean(name)
        model, nothing = self.mean("model")[2], self.mean(ablated)[2]
        return {
            "agreement": agreement,
            "kl": kl,
            "loss": loss,
            "ablated_loss": nothing,
            "loss_recovered": (nothing - loss) / (nothing - model),
        }


def assert_equal(evaluation: tla.Evaluation, slow: OneByOne) -> None:
    assert evaluation.contexts == len(CONTEXTS)
    assert evaluation.tokens == sum(len(same) for same, _, _ in slow.tokens["model"])
    assert evaluation.loss == pytest.approx(slow.mean("model")[2], rel=1e-6)
    assert_replaced(evaluation.replaced, slow.replaced("all", "ablated"))
    for i, (layer, sums) in enumerate(zip(evaluation.layers, slow.layers, strict=True)):
        size, n = sums.written.deviation, sums.written.n
        assert layer.nmse == pytest.approx(sums.missed.squares / size, rel=1e-5, abs=1e-9)
        explained = 1 - sums.missed.deviation / size
        assert layer.explained_variance == pytest.approx(explained, rel=1e-5)
        alive = sums.times_active[sums.times_active > 0]
        assert layer.l0 == int(sums.times_active.sum()) / n
        assert layer.dead == len(sums.times_active) - len(alive)
        assert layer.density == density(alive.double() / n)
        assert_replaced(layer.replaced, slow.replaced(f"layer {i}", f"ablated {i}"))


def assert_replaced(metrics: Any, expected: dict[str, float]) -> None:
    recovered = expected.pop("loss_recovered")
    assert metrics.loss_recovered == pytest.approx(recovered, rel=1e-3, abs=1e-4)
    values = asdict(metrics)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", RAW_HOSTS)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_batches_equal_one_context_at_a_time(family: str, host: str, kind: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS[kind](model)
    assert_equal(tla.evaluate(model, dictionary, rows()), OneByOne(model, dictionary))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_one_context_at_a_time_on_every_family(family: str, host: str) -> None:
    model, dictionary = tiny(family, host), transcoder(skip=True)
    assert_equal(tla.evaluate(model, dictionary, rows()), OneByOne(model, dictionary))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the token ids of every forward pass."""
    from tl_attribution.plugins.transformer_lens.adapter import TransformerLensHost

    shapes: list[tuple[int, ...]] = []
    run_edited = TransformerLensHost.run_edited

    def counted(self: Any, token_ids: Tensor, *rest: Any, **settings: Any) -> Tensor:
        shapes.append(tuple(token_ids.shape))
        return run_edited(self, token_ids, *rest, **settings)

    monkeypatch.setattr(TransformerLensHost, "run_edited", counted)
    return shapes


VARIANTS = 2 * N_LAYERS + 2
"""A layer's reconstruction and ablation, and both of all layers."""


def test_contexts_and_replacements_share_forward_passes(passes: list[tuple[int, ...]]) -> None:
    tla.evaluate(tiny("gpt2", HOSTS[0]), transcoder(), rows())
    assert passes == [(5, 11), (5 * VARIANTS, 11)]
    passes.clear()
    tla.evaluate(tiny("gpt2", HOSTS[0]), transcoder(), rows(), batch_size=2)
    assert passes == [(2, 7), (2 * VARIANTS, 7), (2, 11), (2 * VARIANTS, 11), (1, 3), (VARIANTS, 3)]


@pytest.mark.parametrize("rows_that_fit", [1, 4, 7])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_any_batch_size_and_budget_give_the_same_numbers(
    batch_size: int | None,
    rows_that_fit: int,
    passes: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, dictionary = tiny("gemma2", HOSTS[0]), transcoder(skip=True)
    slow = OneByOne(model, dictionary)
    passes.clear()
    widest = max(VOCAB, 8 * dictionary.d_model, N_LAYERS * (FEATURES + 3 * dictionary.d_model))
    budget = 4 * widest * 11 * rows_that_fit
    monkeypatch.setattr(context_batch, "PASS_BYTES", budget)
    monkeypatch.setattr(context_batch, "CHUNK_TOKENS", 4)
    assert_equal(tla.evaluate(model, dictionary, rows(), batch_size=batch_size), slow)
    most = max(4 * max(VOCAB, 8 * dictionary.d_model) * n * width for n, width in passes)
    assert most <= budget or (batch_size or 1) > rows_that_fit


def test_progress_goes_up_to_the_contexts_within_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_batch, "PASS_BYTES", 1)
    steps: list[tuple[int, int]] = []

    def progress(done: int, total: int, what: str) -> None:
        assert what == "contexts"
        steps.append((done, total))

    model = tiny("gpt2", HOSTS[0])
    tla.evaluate(model, transcoder(), rows(), batch_size=5, progress=progress)
    done = [step for step, _ in steps]
    assert done == sorted(done)
    assert set(done) == set(range(5)), "one batch, and yet it is told how far it is"
    assert {total for _, total in steps} == {5}
