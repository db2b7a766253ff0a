"""Every test sees the plugins as a user does: through ``import tl_attribution``."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

# A first example pays for imports, and the machines that run tests are shared.
settings.register_profile("shared machine", deadline=None, derandomize=True)
settings.load_profile("shared machine")
