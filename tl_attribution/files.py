"""Writing files and holding folders: whole or not at all, one writer at a time."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What file systems answer that have no locks."""


def as_usual(path: Path) -> None:
    """Give a file, or a folder and all in it, the permissions that the umask leaves to new ones:
    temporary files, and safetensors', are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for one in (path, *path.rglob("*")):
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary file whose content becomes that of ``path`` when the block ends without an error;
    with an error ``path`` stays as it was.

    It takes the place of a regular file, so that readers see the old content or the new, never half
    of one; a symbolic link is followed. Devices, pipes and open descriptors (``/dev/null``,
    ``/dev/stdout``) are written into.
    """
    given = Path(path)
    descriptor = _descriptor(given)
    if descriptor is not None or _is_stream(given):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / (given.name or "content")
            yield temporary
            sys.stdout.flush()  # what was printed before comes first
            target = given if descriptor is None else os.dup(descriptor)
            with temporary.open("rb") as content, open(target, "wb") as stream:
                shutil.copyfileobj(content, stream)
        return
    target = Path(os.path.realpath(given))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        as_usual(temporary)
        if target.is_file():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file as :func:`whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _descriptor(path: Path) -> int | None:
    """The open descriptor that a path stands for: opened by its path, a file that output is
    redirected to would lose what was printed before."""
    name = os.path.abspath(path)
    numbered = _DESCRIPTOR.fullmatch(name)
    return int(numbered[1]) if numbered else _STREAMS.get(name)


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold ``folder``, which is made if there is none: others that ask for the same lock wait until
    the block ends, or the process does. The lock is a file in the folder, removed afterwards."""
    file = folder / name
    handle = _acquired(file)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file: it stays for the next
            file.unlink()
        os.close(handle)


def _acquired(file: Path) -> int:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # the folder was removed since
            continue
        try:
            _wait(handle)
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:  # removed by whoever held it before
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _wait(handle: int) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
