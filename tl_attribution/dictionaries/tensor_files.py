"""Tensors in safetensors and npz files: headers are read at once, numbers when they are used.

Tensors are memory-mapped and unmapped with the tensor, so a dictionary larger than the memory is
opened by its headers and read a piece at a time. Pickle is never read: npz files with objects in
them are refused.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_attribution.errors import FormatError

SUFFIXES = (".safetensors", ".npz")

_FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class TensorInfo(NamedTuple):
    """Shape and dtype of a tensor on disk; ``dtype`` is None if it is not a floating-point one."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


def infos(file: Path) -> dict[str, TensorInfo]:
    """Shapes and dtypes of a file's tensors by name. Raises FormatError if it is missing, truncated
    or corrupt."""
    if not file.is_file():
        raise FormatError(f"{file} is missing: the dictionary is not complete")
    if file.suffix == ".npz":
        return {name: entry.info for name, entry in _npz_entries(file).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: TensorInfo(tuple(part.get_shape()), _FLOATS.get(part.get_dtype()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise FormatError(f"{file} is truncated or corrupt: {error}") from error


def mapped(file: Path, name: str) -> Tensor:
    """Map a tensor of a file into memory: only what is used of it is read, and it is unmapped with
    the tensor. Raises FormatError if it is missing."""
    try:
        if file.suffix == ".npz":
            return _npz_mapped(file, _npz_entries(file)[name])
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)
    except (SafetensorError, KeyError, OSError) as error:
        raise FormatError(f"{file}: {name} cannot be read: {error}") from error


@dataclass(frozen=True)
class _NpzEntry:
    offset: int | None
    """Where the numbers start in the file; None if they are compressed."""
    name: str
    info: TensorInfo
    numpy_dtype: Any
    order: Literal["C", "F"]


def _npz_entries(file: Path) -> dict[str, _NpzEntry]:
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            return {
                member.filename.removesuffix(".npy"): _npz_entry(archive, member, raw)
                for member in archive.infolist()
            }
    except (zipfile.BadZipFile, ValueError, struct.error, EOFError) as error:
        raise FormatError(f"{file} is truncated or corrupt: {error}") from error


def _npz_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: Any) -> _NpzEntry:
    from numpy.lib import format as npy

    with archive.open(member) as opened:
        version = npy.read_magic(opened)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(opened)
        header_bytes = opened.tell()
    if dtype.hasobject:
        raise FormatError(
            f"{archive.filename}: {member.filename} holds Python objects, which can run code when "
            "they are read, so it is not opened; save plain arrays with numpy.savez"
        )
    offset = None
    if member.compress_type == zipfile.ZIP_STORED:
        raw.seek(member.header_offset + 26)  # lengths of the local header's name and extra field
        offset = member.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4))) + header_bytes
    known = dtype.kind == "f" and dtype.isnative and dtype.itemsize <= 8
    float_type = getattr(torch, dtype.name) if known else None
    name = member.filename.removesuffix(".npy")
    return _NpzEntry(offset, name, TensorInfo(shape, float_type), dtype, "F" if fortran else "C")


def _npz_mapped(file: Path, entry: _NpzEntry) -> Tensor:
    import numpy as np

    if entry.offset is None:
        with np.load(file, allow_pickle=False) as archive:
            return torch.from_numpy(archive[entry.name])
    shape, kind = entry.info.shape, entry.numpy_dtype
    # Mode "c" never writes to the file, and unlike "r" gives torch an array it may hold.
    numbers = np.memmap(file, kind, "c", entry.offset, shape, entry.order)
    return torch.from_numpy(numbers)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


class TensorFile:
    """A file of tensors, its headers read. Names that it lacks raise a FormatError that lists the
    names it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # read again later, perhaps in another working directory
        self.infos: Mapping[str, TensorInfo] = infos(self.path)
        self._stamp = _stamp(self.path)

    def __contains__(self, name: str) -> bool:
        return name in self.infos

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._info(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Floating-point type of a tensor."""
        dtype = self._info(name).dtype
        if dtype is None:
            raise FormatError(f"{self.path}: {name} does not hold floating-point numbers")
        return dtype

    def mapped(self, name: str) -> Tensor:
        """A tensor, mapped (see :func:`mapped`). Raises FormatError if the file was changed since
        it was opened."""
        self._check()
        try:
            tensor = mapped(self.path, name)
        finally:
            self._check()  # it may have been replaced in between
        return tensor

    def _check(self) -> None:
        if _stamp(self.path) != self._stamp:
            raise FormatError(f"{self.path} was changed since it was opened: load it again")

    def read(self, name: str) -> Tensor:
        """A small tensor, copied into memory."""
        self.dtype(name)
        return self.mapped(name).clone()

    def optional(self, name: str) -> Tensor | None:
        """A small tensor as :meth:`read` reads it, or None if the file lacks it."""
        return self.read(name) if name in self else None

    def _info(self, name: str) -> TensorInfo:
        if name not in self.infos:
            raise FormatError(f"{self.path}: lacks {name!r}; it holds {listed(self.infos)}")
        return self.infos[name]


def listed(names: Any, limit: int = 8) -> str:
    """Names for a sentence, at most ``limit`` of them."""
    ordered = sorted(map(str, names))
    rest = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + rest if ordered else "nothing"
