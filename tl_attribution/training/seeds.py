"""Random generators seeded by where they are used, so that their state need not be saved."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose seed follows from some integers alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
