"""Devices that tests run on: the pretend one everywhere, a real one where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from tests import pretend_device
from tests.devices.pairs import Pair
from tests.models import RAW_HOSTS, bridge, hooked, tiny

NEEDS = "torch.utils.backend_registration._setup_privateuseone_for_python_backend"


@pytest.fixture(params=[pretend_device.NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param != pretend_device.NAME:
        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device")
        yield request.param
        return
    if not pretend_device.AVAILABLE:
        pytest.skip(f"torch {torch.__version__} lacks {NEEDS}, which makes devices in Python")
    with pretend_device.pretending():
        yield request.param


@cache
def _moved(device: str, family: str, host: str) -> Any:
    return hooked(family).to(device) if host == "hooked" else bridge(family, device=device)


@pytest.fixture(params=RAW_HOSTS)
def pair(request: pytest.FixtureRequest, device: str) -> Pair:
    return Pair(tiny("gpt2", request.param), _moved(device, "gpt2", request.param), device)
