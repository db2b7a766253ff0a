"""The sparse trainer against dense autograd, for every activation and kind of dictionary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training import dense
from tl_attribution.training import kernels, normalization, sparse
from tl_attribution.training.buffer import Batch
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import ProcessGrid
from tl_attribution.training.model import TrainingTranscoder

LAYERS, TOKENS, WIDTH, FEATURES = 3, 40, 12, 24
ALONE = ProcessGrid(torch.device("cpu"))
SHAPES = [
    {"kind": "clt"},
    {"kind": "clt", "k_per_layer": True},
    {"kind": "clt", "window": 2},
    {"kind": "clt", "skip": True},
    {"kind": "transcoders"},
    {"kind": "transcoders", "skip": True},
]


def batch(seed: int = 0, tokens: int = TOKENS) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(LAYERS, tokens, WIDTH, generator=rng),
        torch.randn(LAYERS, tokens, WIDTH, generator=rng),
    )


def trainee(**changes: Any) -> TrainingTranscoder:
    config = TrainingConfig(
        **{
            "n_features": FEATURES, "k": 3, "tokens": 4000, "batch": TOKENS, "buffer": 400,
            "aux_k": 0, "bandwidth": 1e-9, "seed": 3, **changes,
        }
    )  # fmt: skip
    made = TrainingTranscoder(config, LAYERS, WIDTH, ALONE)
    with torch.no_grad():  # nothing at a trivial initial value
        rng = torch.Generator().manual_seed(1)
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    return made


def nothing_dead() -> Tensor:
    return torch.zeros(LAYERS, FEATURES, dtype=torch.bool)


@pytest.fixture(params=["sparse with MKL", "sparse without", "dense"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    share = 0.0 if request.param == "dense" else 2.0
    monkeypatch.setattr(sparse, "DENSE_ABOVE", dict.fromkeys(sparse.DENSE_ABOVE, share))
    monkeypatch.setattr(kernels, "mkl", lambda: request.param == "sparse with MKL")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_loss_and_every_gradient_equal_dense_autograd(
    shape: dict[str, Any], activation: str
) -> None:
    made, data, step = trainee(activation=activation, **shape), batch(), 50
    outcome = made(data, step, nothing_dead())
    outcome.loss.backward()
    found = {n: p.grad for n, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    _, loss = dense.forward(made, data, step)
    loss.backward()
    torch.testing.assert_close(outcome.loss, loss)
    for name, p in made.named_parameters():
        if name == "log_threshold":
            continue  # straight-through: no gradient of a function; its own test is below
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_threshold_gets_the_straight_through_gradient_of_its_paper() -> None:
    made, data, step = trainee(activation="jumprelu", bandwidth=0.4), batch(), 50
    made(data, step, nothing_dead()).loss.backward()
    found = made.log_threshold.grad
    c = made.config
    # dL/dθ = Σ over entries near θ of dL/da · (−θ/ε), and dθ/dlogθ = θ.
    pres = [data.inputs[i] @ made.W_enc[i].T + made.b_enc[i] for i in made]
    acts = [
        (pre * (pre > made.log_threshold[i].exp())).detach().requires_grad_()
        for i, pre in enumerate(pres)
    ]
    recon = [made.b_dec[i].detach().expand(TOKENS, -1) for i in made]
    penalty = torch.zeros(())
    for i, a in enumerate(acts):
        tables = [table.detach() for table in made.decoders[i]]
        for to, table in enumerate(tables, i):
            recon[to] = recon[to] + a @ table
        norm = torch.cat(tables, 1).norm(dim=1)
        penalty = penalty + torch.tanh(c.tanh_scale * norm * a).sum() / TOKENS / LAYERS
    loss = (data.outputs - torch.stack(recon)).square().mean() + c.sparsity_at(step) * penalty
    loss.backward()
    assert found is not None
    for i, (pre, a) in enumerate(zip(pres, acts, strict=True)):
        theta = made.log_threshold[i].exp().detach()
        near = (pre - theta).abs() < c.bandwidth / 2
        assert near.any()
        assert a.grad is not None
        expected = (a.grad * near).sum(0) * -theta / c.bandwidth * theta
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-7)


def test_auxk_teaches_dead_features_what_is_missing() -> None:
    made, data = trainee(aux_k=4, aux=1.0), batch()
    dead = nothing_dead()
    dead[:, :6] = True
    outcome = made(data, 0, dead)
    out, _ = dense.forward(made, data, 0)
    missing = (data.outputs - out).detach()
    made_up = [torch.zeros(TOKENS, WIDTH) for _ in made]
    for i in made:
        pre = data.inputs[i] @ made.W_enc[i].T + made.b_enc[i]
        best = (pre * dead[i]).topk(4, dim=1)
        a = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
        for to, table in enumerate(made.decoders[i], i):
            made_up[to] = made_up[to] + a @ table
    error = (missing - torch.stack(made_up)).square().mean((1, 2))
    expected = (error / missing.square().mean((1, 2))).mean()
    torch.testing.assert_close(outcome.parts["aux"], expected.detach())


def test_the_preactivation_term_pulls_dead_features_up_only() -> None:
    made, data = trainee(preactivation=1.0), batch()
    dead = nothing_dead()
    dead[0, 2] = True
    made.b_enc[0].data[2] = -10.0
    outcome = made(data, 0, dead)
    pre = data.inputs[0] @ made.W_enc[0][2] + made.b_enc[0][2]
    norm = torch.cat([table[2] for table in made.decoders[0]]).norm()
    assert made.last is not None
    least = made.last[0] / norm
    expected = ((least - pre).relu() * norm).mean() / LAYERS
    torch.testing.assert_close(outcome.parts["preactivation"], expected.detach())
    outcome.loss.backward()
    assert made.b_enc[0].grad is not None
    assert made.b_enc[0].grad[2] < 0, "a step against the gradient raises the bias"


@pytest.mark.parametrize("wrong", [0.1, 1.0, 1.5, 100.0])
@pytest.mark.parametrize("k_per_layer", [False, True])
def test_a_wrong_guess_of_the_thresholds_changes_nothing(wrong: float, k_per_layer: bool) -> None:
    made = trainee(k_per_layer=k_per_layer, k_start=3)
    expected = made(batch(), 0, nothing_dead())
    right = made.last
    assert right is not None
    made.last = [wrong * least for least in right]
    found = made(batch(), 0, nothing_dead())
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.active, expected.active)
    assert made.last == right


@pytest.mark.parametrize(
    ("guess", "searches"), [(1.0, 1), (1.5, 2), (100.0, 3)], ids=["right", "high", "far too high"]
)
def test_all_entries_are_looked_at_only_if_no_guess_serves(
    guess: float, searches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainee(k_start=3)
    made(batch(), 0, nothing_dead())
    assert made.last is not None
    made.last = [guess * least for least in made.last]
    find, looked_at = made._find, []

    def counted(*given: Any) -> Any:
        found = find(*given)
        looked_at.append(sum(len(some.pre) for some in found))
        return found

    monkeypatch.setattr(made, "_find", counted)
    made(batch(), 0, nothing_dead())
    pre = [x @ W.T + b for x, W, b in zip(batch().inputs, made.W_enc, made.b_enc, strict=True)]
    every = sum(int((some > 0).sum()) for some in pre)
    assert len(looked_at) == searches
    assert (max(looked_at) == every) == (searches == 3)


def test_fewer_positive_entries_than_asked_for_are_all_active() -> None:
    made = trainee(k=FEATURES - 1, k_start=FEATURES)
    for _ in range(2):  # without a last threshold, and with one
        outcome = made(batch(), 0, nothing_dead())
        pre = [x @ W.T + b for x, W, b in zip(batch().inputs, made.W_enc, made.b_enc, strict=True)]
        expected = torch.stack([(some > 0).sum(0) for some in pre]).float()
        assert torch.equal(outcome.active, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_saved_dictionary_does_in_raw_units_what_was_trained_in_normalised_ones(
    shape: dict[str, Any],
) -> None:
    made = trainee(activation="topk", **shape)
    raw = Batch(batch(1).inputs * 3 + 2, batch(2).outputs * 0.2 - 5)
    units = normalization.measure([raw], ALONE)
    saved = made.to_dictionary(units, torch.zeros(LAYERS), "a model")
    recon, _ = dense.forward(made, units.normalise(raw), 10**6)
    expected = recon.detach() * units.output_scale[:, None, None] + units.output_mean[:, None]
    found = saved.decode(saved.encode(raw.inputs), raw.inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_normalised_data_has_mean_zero_and_variance_one() -> None:
    raw = Batch(batch(1).inputs * 3 + 2, batch(2).outputs * 0.2 - 5)
    units = normalization.measure([raw], ALONE)
    room = units.normalise(Batch(batch(3).inputs, batch(4).outputs))
    found = units.normalise(raw, room)
    assert [t.data_ptr() for t in found] == [t.data_ptr() for t in room]
    for tensor in found:
        assert tensor.mean(1).abs().max() < 1e-5
        torch.testing.assert_close(tensor.var(1, correction=0).mean(1), torch.ones(LAYERS))


def test_a_layer_that_never_varies_keeps_its_unit() -> None:
    raw = Batch(torch.ones(LAYERS, TOKENS, WIDTH), torch.zeros(LAYERS, TOKENS, WIDTH))
    units = normalization.measure([raw], ALONE)
    assert units.normalise(raw).outputs.isfinite().all()
    assert (units.input_scale == 1).all()
