"""Files written whole or not at all, with the permissions that the umask gives."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tl_attribution.errors import FormatError, NotFoundError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error,
    and is removed when it does not: readers see the old file or the new one, never half of one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        as_usual(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def as_usual(path: Path) -> None:
    """Give a file, or a folder and all in it, the rights that the umask leaves to new ones."""
    mask = os.umask(0)
    os.umask(mask)
    for found in (path, *path.rglob("*")):
        found.chmod((0o777 if found.is_dir() else 0o666) & ~mask)


REPORT_VERSION = 1
Report = TypeVar("Report")


def write_report(path: str | Path, kind: str, values: dict[str, Any]) -> None:
    """Plain values, without NaN; ``kind`` (``"evaluation"``) says what they are."""
    marked = {_report_key(kind): REPORT_VERSION} | values
    text = json.dumps(marked, indent=2, allow_nan=False, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def read_report(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Report]) -> Report:
    """What ``build`` makes of the values that :func:`write_report` wrote. Raises NotFoundError if
    there is no such file, FormatError if it is corrupt, of another kind or of another version."""
    file, writer = Path(path), f"{kind.capitalize()}.to_json(path)"
    if not file.is_file():
        raise NotFoundError(f"no {kind} at {file}; {writer} writes one")
    try:
        values = json.loads(file.read_bytes())
        version = values.pop(_report_key(kind))
        report = build(values) if version == REPORT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            f"{file} is corrupt or no {kind}: {error!r}; expected a file written by {writer}"
        ) from error
    if report is None:
        raise FormatError(
            f"{file} is of version {version!r}, and this package reads {kind}s of version "
            f"{REPORT_VERSION}: update tl-attribution"
        )
    return report


def _report_key(kind: str) -> str:
    return f"tl_attribution_{kind}"
