"""Evaluations and validations as JSON files: written whole, and read back or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tl_attribution.errors import FormatError, NotFoundError

VERSION = 1
Report = TypeVar("Report")


def write(path: str | Path, kind: str, held: dict[str, Any]) -> None:
    """Plain values, without NaN; ``kind`` (``"evaluation"``) says what they are."""
    from tl_attribution.files import write_whole

    marked = {_key(kind): VERSION} | held
    text = json.dumps(marked, indent=2, allow_nan=False, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def read(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Report]) -> Report:
    """What ``build`` makes of the values that :func:`write` wrote. Raises NotFoundError if there is
    no such file, FormatError if it is corrupt, of another kind or of another version."""
    file, writer = Path(path), f"{kind.capitalize()}.to_json(path)"
    if not file.is_file():
        raise NotFoundError(f"no {kind} at {file}; {writer} writes one")
    try:
        held = json.loads(file.read_bytes())
        version = held.pop(_key(kind))
        made = build(held) if version == VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            f"{file} is corrupt or no {kind}: {error!r}; expected a file written by {writer}"
        ) from error
    if made is None:
        raise FormatError(
            f"{file} is of version {version!r}, and this package reads {kind}s of version "
            f"{VERSION}: update tl-attribution"
        )
    return made


def _key(kind: str) -> str:
    return f"tl_attribution_{kind}"
