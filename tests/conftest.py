"""Every test sees the plugins as a user does: through ``import tl_attribution``."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings
from jaxtyping import config

# A first example pays for imports, and the machines that run tests are shared.
settings.register_profile("shared machine", deadline=None, derandomize=True)
settings.load_profile("shared machine")


@pytest.fixture
def unchecked_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are not type-checked, as for users: for arguments that are none of a Literal."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
