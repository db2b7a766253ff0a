"""A known trap: "CLTs are incentivized to learn unfaithful circuits".

A model computes in two steps: layer 0 turns a concept x into h, layer 1 turns h into y. A penalty
on active features is lower if one feature at layer 0 reads x and writes both h and y than if a
second one at layer 1 reads h. The CLT then reconstructs perfectly and tells a shallow story.

What detects it: take h away and ask both again. The model's layer 1 falls silent, a collapsed
CLT's does not. What prevents it: features that write to their own layer only
(``kind="transcoders"``, or a window of 1), at the price of more active features.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tl_attribution.training import normalization
from tl_attribution.training.buffer import Batch
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import ProcessGrid
from tl_attribution.training.model import TrainingTranscoder
from tl_attribution.training.optimizer import Optimizer

CONCEPTS, WIDTH, TOKENS, STEPS = 6, 18, 256, 500
SINGLE_PROCESS = ProcessGrid(torch.device("cpu"))
X, H, Y = (torch.eye(WIDTH)[i * CONCEPTS : (i + 1) * CONCEPTS] for i in range(3))


def layer_0(stream: Tensor) -> Tensor:
    """h from x, which it removes, so that layer 1 sees h alone."""
    return stream @ X.T @ (H - X)


def layer_1(stream: Tensor) -> Tensor:
    """y from h."""
    return stream @ H.T @ Y


def batch(seed: int) -> Batch:
    """Both layers' inputs and outputs on random concepts, one a token."""
    rng = torch.Generator().manual_seed(seed)
    x = X[torch.randint(CONCEPTS, (TOKENS,), generator=rng)]
    stream = x + layer_0(x)
    return Batch(torch.stack([x, stream]), torch.stack([layer_0(x), layer_1(stream)]))


def train_dictionary(**changes: Any) -> tuple[Any, float]:
    """A dictionary and its reconstruction error, as a share of what is to be written."""
    config = TrainingConfig(
        n_features=12, tokens=STEPS * TOKENS, batch_size=TOKENS, buffer_size=TOKENS,
        activation="relu", sparsity_coefficient=0.05, learning_rate=1e-2, aux_k=0,
        normalize=False, **changes,
    )  # fmt: skip
    transcoder = TrainingTranscoder(config, 2, WIDTH, SINGLE_PROCESS)
    optimizer = Optimizer(transcoder, SINGLE_PROCESS)
    nothing = torch.zeros(2, 12, dtype=torch.bool)
    for step in range(STEPS):
        optimizer.update(transcoder(batch(step), step, nothing).loss, step)
    dictionary = transcoder.to_dictionary(normalization.identity(2, WIDTH), torch.zeros(2), "toy")
    data = batch(STEPS)
    reconstruction = dictionary.decode(dictionary.encode(data.inputs), data.inputs)
    error = (reconstruction - data.outputs).square().sum()
    return dictionary, float(error / data.outputs.square().sum())


def unfaithfulness(dictionary: Any) -> float:
    """What the dictionary says layer 1 writes after h was taken away from what it reads, as a share
    of what it said before. The model's own answer is 0: its layer 1 reads nothing but h."""
    whole = batch(STEPS)
    without = whole.inputs.clone()
    without[1] -= without[0] + layer_0(without[0])
    assert layer_1(without[1]).abs().max() == 0
    before, after = (dictionary.decode(dictionary.encode(x), x)[1] for x in (whole.inputs, without))
    return float((after - after.mean(0)).norm() / (before - before.mean(0)).norm())


def test_a_clt_collapses_two_steps_into_one_and_the_intervention_shows_it() -> None:
    clt, error = train_dictionary(kind="clt")
    honest, honest_error = train_dictionary(kind="transcoders")
    assert error < 0.01
    assert honest_error < 0.01, "both reconstruct the model: the error does not tell them apart"
    assert unfaithfulness(clt) > 0.7
    assert unfaithfulness(honest) < 0.1


def test_a_window_of_one_layer_prevents_it() -> None:
    windowed, _ = train_dictionary(kind="clt", window=1)
    assert unfaithfulness(windowed) == pytest.approx(0, abs=0.1)
