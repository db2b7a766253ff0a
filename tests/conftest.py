"""Every test sees the plugins as a user does: through ``import tl_attribution``."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
