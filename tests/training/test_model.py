"""The sparse trainer against dense autograd, for every activation and kind of dictionary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training import dense
from tl_attribution import kernels
from tl_attribution.training import normalization, sparse
from tl_attribution.training.buffer import Batch
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import ProcessGrid
from tl_attribution.training.model import TrainingTranscoder

LAYERS, TOKENS, WIDTH, FEATURES = 3, 40, 12, 24
SINGLE_PROCESS = ProcessGrid(torch.device("cpu"))
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


def new_transcoder(**changes: Any) -> TrainingTranscoder:
    config = TrainingConfig(
        **{
            "n_features": FEATURES, "k": 3, "tokens": 4000, "batch_size": TOKENS,
            "buffer_size": 400, "aux_k": 0, "bandwidth": 1e-9, "seed": 3, **changes,
        }
    )  # fmt: skip
    transcoder = TrainingTranscoder(config, LAYERS, WIDTH, SINGLE_PROCESS)
    with torch.no_grad():  # nothing at a trivial initial value
        rng = torch.Generator().manual_seed(1)
        for p in transcoder.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    return transcoder


def nothing_dead() -> Tensor:
    return torch.zeros(LAYERS, FEATURES, dtype=torch.bool)


@pytest.fixture(params=["sparse with MKL", "sparse without", "dense"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    share = 0.0 if request.param == "dense" else 2.0
    monkeypatch.setattr(sparse, "DENSE_ABOVE", dict.fromkeys(sparse.DENSE_ABOVE, share))
    monkeypatch.setattr(kernels, "use_mkl", lambda: request.param == "sparse with MKL")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_loss_and_every_gradient_equal_dense_autograd(
    shape: dict[str, Any], activation: str
) -> None:
    transcoder, data, step = new_transcoder(activation=activation, **shape), batch(), 50
    result = transcoder(data, step, nothing_dead())
    result.loss.backward()
    gradients = {n: p.grad for n, p in transcoder.named_parameters() if p.grad is not None}
    transcoder.zero_grad()
    _, loss = dense.forward(transcoder, data, step)
    loss.backward()
    torch.testing.assert_close(result.loss, loss)
    for name, p in transcoder.named_parameters():
        if name == "log_threshold":
            continue  # straight-through: no gradient of a function; its own test is below
        assert p.grad is not None
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_threshold_gets_the_straight_through_gradient_of_its_paper() -> None:
    transcoder, data, step = new_transcoder(activation="jumprelu", bandwidth=0.4), batch(), 50
    transcoder(data, step, nothing_dead()).loss.backward()
    gradient = transcoder.log_threshold.grad
    c = transcoder.config
    # dL/dθ = Σ over entries near θ of dL/da · (−θ/ε), and dθ/dlogθ = θ.
    pres = [data.inputs[i] @ transcoder.W_enc[i].T + transcoder.b_enc[i] for i in transcoder]
    acts = [
        (pre * (pre > transcoder.log_threshold[i].exp())).detach().requires_grad_()
        for i, pre in enumerate(pres)
    ]
    recon = [transcoder.b_dec[i].detach().expand(TOKENS, -1) for i in transcoder]
    penalty = torch.zeros(())
    for i, a in enumerate(acts):
        tables = [table.detach() for table in transcoder.decoders[i]]
        for to, table in enumerate(tables, i):
            recon[to] = recon[to] + a @ table
        norm = torch.cat(tables, 1).norm(dim=1)
        penalty = penalty + torch.tanh(c.tanh_scale * norm * a).sum() / TOKENS / LAYERS
    loss = (data.outputs - torch.stack(recon)).square().mean() + c.sparsity_at(step) * penalty
    loss.backward()
    assert gradient is not None
    for i, (pre, a) in enumerate(zip(pres, acts, strict=True)):
        theta = transcoder.log_threshold[i].exp().detach()
        near = (pre - theta).abs() < c.bandwidth / 2
        assert near.any()
        assert a.grad is not None
        expected = (a.grad * near).sum(0) * -theta / c.bandwidth * theta
        torch.testing.assert_close(gradient[i], expected, rtol=1e-4, atol=1e-7)


def test_auxk_teaches_dead_features_what_is_missing() -> None:
    transcoder, data = new_transcoder(aux_k=4, aux_coefficient=1.0), batch()
    dead = nothing_dead()
    dead[:, :6] = True
    result = transcoder(data, 0, dead)
    out, _ = dense.forward(transcoder, data, 0)
    missing = (data.outputs - out).detach()
    auxiliary = [torch.zeros(TOKENS, WIDTH) for _ in transcoder]
    for i in transcoder:
        pre = data.inputs[i] @ transcoder.W_enc[i].T + transcoder.b_enc[i]
        best = (pre * dead[i]).topk(4, dim=1)
        a = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
        for to, table in enumerate(transcoder.decoders[i], i):
            auxiliary[to] = auxiliary[to] + a @ table
    error = (missing - torch.stack(auxiliary)).square().mean((1, 2))
    expected = (error / missing.square().mean((1, 2))).mean()
    torch.testing.assert_close(result.parts["aux"], expected.detach())


def test_the_preactivation_term_pulls_dead_features_up_only() -> None:
    transcoder, data = new_transcoder(preactivation_coefficient=1.0), batch()
    dead = nothing_dead()
    dead[0, 2] = True
    transcoder.b_enc[0].data[2] = -10.0
    result = transcoder(data, 0, dead)
    pre = data.inputs[0] @ transcoder.W_enc[0][2] + transcoder.b_enc[0][2]
    norm = torch.cat([table[2] for table in transcoder.decoders[0]]).norm()
    assert transcoder.last_thresholds is not None
    threshold = transcoder.last_thresholds[0] / norm
    expected = ((threshold - pre).relu() * norm).mean() / LAYERS
    torch.testing.assert_close(result.parts["preactivation"], expected.detach())
    result.loss.backward()
    assert transcoder.b_enc[0].grad is not None
    assert transcoder.b_enc[0].grad[2] < 0, "a step against the gradient raises the bias"


@pytest.mark.parametrize("wrong", [0.1, 1.0, 1.5, 100.0])
@pytest.mark.parametrize("k_per_layer", [False, True])
def test_a_wrong_guess_of_the_thresholds_changes_nothing(wrong: float, k_per_layer: bool) -> None:
    transcoder = new_transcoder(k_per_layer=k_per_layer, k_start=3)
    expected = transcoder(batch(), 0, nothing_dead())
    right = transcoder.last_thresholds
    assert right is not None
    transcoder.last_thresholds = [wrong * threshold for threshold in right]
    result = transcoder(batch(), 0, nothing_dead())
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.active, expected.active)
    assert transcoder.last_thresholds == right


@pytest.mark.parametrize(
    ("guess", "searches"), [(1.0, 1), (1.5, 2), (100.0, 3)], ids=["right", "high", "far too high"]
)
def test_all_entries_are_searched_only_if_no_guess_serves(
    guess: float, searches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcoder = new_transcoder(k_start=3)
    transcoder(batch(), 0, nothing_dead())
    assert transcoder.last_thresholds is not None
    transcoder.last_thresholds = [guess * threshold for threshold in transcoder.last_thresholds]
    find_candidates, sizes = transcoder._candidates, []

    def counted(*arguments: Any) -> Any:
        candidates = find_candidates(*arguments)
        sizes.append(sum(len(layer.pre) for layer in candidates))
        return candidates

    monkeypatch.setattr(transcoder, "_candidates", counted)
    transcoder(batch(), 0, nothing_dead())
    pre = [
        x @ W.T + b
        for x, W, b in zip(batch().inputs, transcoder.W_enc, transcoder.b_enc, strict=True)
    ]
    total = sum(int((layer > 0).sum()) for layer in pre)
    assert len(sizes) == searches
    assert (max(sizes) == total) == (searches == 3)


def test_fewer_positive_entries_than_k_are_all_active() -> None:
    transcoder = new_transcoder(k=FEATURES - 1, k_start=FEATURES)
    for _ in range(2):  # without a last threshold, and with one
        result = transcoder(batch(), 0, nothing_dead())
        pre = [
            x @ W.T + b
            for x, W, b in zip(batch().inputs, transcoder.W_enc, transcoder.b_enc, strict=True)
        ]
        expected = torch.stack([(layer > 0).sum(0) for layer in pre]).float()
        assert torch.equal(result.active, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_saved_dictionary_does_in_raw_units_what_was_trained_in_normalized_ones(
    shape: dict[str, Any],
) -> None:
    transcoder = new_transcoder(activation="topk", **shape)
    raw = Batch(batch(1).inputs * 3 + 2, batch(2).outputs * 0.2 - 5)
    units = normalization.measure([raw], SINGLE_PROCESS)
    saved = transcoder.to_dictionary(units, torch.zeros(LAYERS), "a model")
    recon, _ = dense.forward(transcoder, units.normalize(raw), 10**6)
    expected = recon.detach() * units.output_scale[:, None, None] + units.output_mean[:, None]
    result = saved.decode(saved.encode(raw.inputs), raw.inputs)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_normalized_data_has_mean_zero_and_variance_one() -> None:
    raw = Batch(batch(1).inputs * 3 + 2, batch(2).outputs * 0.2 - 5)
    units = normalization.measure([raw], SINGLE_PROCESS)
    out = units.normalize(Batch(batch(3).inputs, batch(4).outputs))
    result = units.normalize(raw, out)
    assert [t.data_ptr() for t in result] == [t.data_ptr() for t in out]
    for tensor in result:
        assert tensor.mean(1).abs().max() < 1e-5
        torch.testing.assert_close(tensor.var(1, correction=0).mean(1), torch.ones(LAYERS))


def test_a_layer_that_never_varies_keeps_its_unit() -> None:
    raw = Batch(torch.ones(LAYERS, TOKENS, WIDTH), torch.zeros(LAYERS, TOKENS, WIDTH))
    units = normalization.measure([raw], SINGLE_PROCESS)
    assert units.normalize(raw).outputs.isfinite().all()
    assert (units.input_scale == 1).all()
