"""The device that the other tests here run on is as strict as CUDA, whether pretended or real."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

MIXED = "same device|device of the|indices should be|on device"

MIXES: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "sum": lambda there, here: there + here,
    "number of the device": lambda there, here: here + there.sum(),
    "product": lambda there, here: there @ here,
    "concatenation": lambda there, here: torch.cat([there, here]),
    "stack of numbers": lambda there, here: torch.stack([there[0], here[0]]),
    "where": lambda there, here: torch.where(there > 0, there, here),
    "index of the device": lambda there, here: here[there.long()],
    "mask of the device": lambda there, here: here[there > 0],
    "rows selected": lambda there, here: there.index_select(0, here.long()),
    "gathered": lambda there, here: there.gather(0, here.long()),
    "assignment by index": lambda there, here: there.index_put((here.long(),), here),
}


@pytest.mark.parametrize("mix", MIXES)
def test_what_mixes_devices_raises(device: str, mix: str) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        MIXES[mix](torch.tensor([1.0, 0.0, 1.0], device=device), torch.tensor([1.0, 0.0, 1.0]))


def test_numpy_refuses_the_device(device: str) -> None:
    with pytest.raises(TypeError, match="convert"):
        torch.ones(3, device=device).numpy()


def test_indexing_by_the_processor_copies_and_numbers_are_allowed(device: str) -> None:
    there = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    assert there[torch.tensor([3, 0])].tolist() == [4.0, 1.0]
    assert there[torch.tensor([True, False, False, True])].cpu().tolist() == [1.0, 4.0]
    assert (there * torch.tensor(2.0)).tolist() == [2.0, 4.0, 6.0, 8.0]
    there[torch.tensor([1])] = torch.tensor(7.0)
    there[2:] = torch.tensor([8.0, 9.0])
    assert there.tolist() == [1.0, 7.0, 8.0, 9.0]
    here = torch.zeros(4)
    here[:2] = there[:2]
    assert here.numpy().tolist() == [1.0, 7.0, 0.0, 0.0]
    assert float(there.sum()) == there.sum().item() == 25.0
    assert there.to("cpu").device.type == "cpu"
    assert there.new_zeros(2, device="cpu").device.type == "cpu"


def test_factories_land_on_the_device(device: str) -> None:
    there = torch.ones(2, device=device)
    for tensor in (
        torch.arange(3, device=device),
        torch.tensor([1, 2], device=device),
        torch.zeros(2, 2, device=device),
        torch.empty(2, device=device),
        torch.full((2,), 1.0, device=device),
        torch.zeros_like(there),
        there.new_zeros(3),
        torch.ones(2).to(device),
        torch.ones(2).to(there),
        there.nonzero(),
        there > 0,
    ):
        assert tensor.device.type == device
    assert torch.arange(3).device.type == "cpu"


def test_gradients_and_modules_work(device: str) -> None:
    module = nn.Linear(3, 2)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    module(x).square().sum().backward()
    assert module.weight.grad is not None
    expected = module.weight.grad.clone()
    module.zero_grad()
    module.to(device)
    module(x.to(device)).square().sum().backward()
    assert module.weight.grad.device.type == device
    assert torch.allclose(module.weight.grad.cpu(), expected, atol=1e-6)
