"""Who may read what is written: temporary files, and safetensors', are their owner's alone."""

from __future__ import annotations

import os
from pathlib import Path


def as_usual(path: Path) -> None:
    """Give a file, or a folder and all in it, the rights that the umask leaves to new ones."""
    mask = os.umask(0)
    os.umask(mask)
    for found in (path, *path.rglob("*")):
        found.chmod((0o777 if found.is_dir() else 0o666) & ~mask)
