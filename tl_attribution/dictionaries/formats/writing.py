"""Writing a folder whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tl_attribution.errors import InputError
from tl_attribution.files import as_usual


def write_folder(
    path: str | Path, ours: Callable[[Path], bool], fill: Callable[[Path], None]
) -> None:
    """Let ``fill`` write into a new folder, which then takes its place at ``path``.

    A folder that ``ours`` recognises is replaced. Raises InputError if ``path`` exists and is
    anything else than that or an empty folder.
    """
    folder = Path(path)
    if folder.exists() and (folder.is_file() or (any(folder.iterdir()) and not ours(folder))):
        raise InputError(
            f"{folder} exists and is not a dictionary in this format; choose an empty folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fill(new)
        as_usual(new)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            folder.replace(old)
            new.replace(folder)
            shutil.rmtree(old)
        else:
            new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
