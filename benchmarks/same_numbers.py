"""Not one number changes: everything the public functions compute, before and after a change.

    python benchmarks/same_numbers.py record before.safetensors    # on the code before
    python benchmarks/same_numbers.py compare before.safetensors   # on the code after
    python benchmarks/same_numbers.py summarize tests/same_numbers.safetensors

``compare`` reports every number that is not the same bit for bit, on the same machine and with the
same libraries, and exits with 1 if there is one. ``summarize`` writes the short form that
tests/test_same_numbers.py compares within rounding on any machine. Only public names are used.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import random_hosts
import torch
from number_cases import CASES, Numbers, nested
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

SMALL = 16
"""Entries of a tensor that a summary keeps as they are; of a larger one it keeps projections."""


def summarized(numbers: Numbers) -> tuple[list[str], Numbers]:
    """Names, and per name how many floats are kept of it (``sizes``), those floats one after the
    other, and a digest of what must be equal on any machine: shapes, integers, text, NaNs."""
    kept = [_floats(name, tensor) for name, tensor in numbers.items()]
    return list(numbers), {
        "sizes": torch.tensor([len(one) for one in kept], dtype=torch.int32),
        "floats": torch.cat(kept).float(),
        "digests": torch.tensor([_digest(tensor) for tensor in numbers.values()]),
    }


def _floats(name: str, tensor: Tensor) -> Tensor:
    """A small tensor and plain results (float64) themselves, as these are of all magnitudes; the
    norm of a large tensor and its direction's products with random vectors."""
    if not tensor.is_floating_point():
        return torch.zeros(0, dtype=torch.float64)
    flat = tensor.detach().double().nan_to_num().flatten()
    if tensor.dtype == torch.float64 or len(flat) <= SMALL:
        return flat
    if name.endswith("cumulative"):  # which of two equal influences counts first is rounding
        flat = flat.sort().values
    draw = random_hosts.Random(zlib.crc32(name.encode()))
    norm = flat.norm()
    products = [flat @ draw.normal(len(flat)).double() / norm.clamp(min=1e-30) for _ in range(3)]
    return torch.stack([norm, *products])


def _digest(tensor: Tensor) -> int:
    discrete = tensor.isnan() if tensor.is_floating_point() else tensor
    said = f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + _bytes(discrete)
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "little", signed=True)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def differences(before: Numbers, now: Numbers) -> Iterator[str]:
    """A line for every result that is not the same bit for bit."""
    for name in sorted(before.keys() | now.keys()):
        if name not in now or name not in before:
            yield f"{name}: {'only now' if name in now else 'only before'}"
            continue
        a, b = before[name], now[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"{name}: {a.dtype} {tuple(a.shape)} before, {b.dtype} {tuple(b.shape)} now"
        elif _bytes(a) != _bytes(b):
            by = (a.double() - b.double()).abs().nan_to_num(float("inf"))
            by[a.isnan() & b.isnan()] = 0
            unlike = int((by > 0).sum())  # 0 if only the signs of zeros differ
            yield f"{name}: {unlike} of {a.numel()} differ, by {float(by.max()):.3e} at most"


def versions() -> dict[str, str]:
    """What the numbers also depend on, besides the processor."""
    names = ("torch", "numpy", "transformers", "transformer-lens")
    return {name: version(name) for name in names}


def _compare(path: Path, now: Numbers) -> int:
    with safe_open(path, "pt") as file:
        before_versions = file.metadata()
    if before_versions != versions():
        print(f"recorded with {before_versions}, now {versions()}")
    cases = {name.split("/")[0] for name in now}
    before = {k: tensor for k, tensor in load_file(path).items() if k.split("/")[0] in cases}
    unlike = list(differences(before, now))
    print(*unlike, sep="\n")
    total = sum(tensor.numel() for tensor in now.values())
    print(f"{len(now)} results, {total:,} numbers: {len(unlike)} results differ")
    return 1 if unlike else 0


def _summarize(path: Path, now: Mapping[str, Numbers]) -> None:
    short = {case: summarized(numbers) for case, numbers in now.items()}
    tensors = nested((case, kept) for case, (_, kept) in short.items())
    save_file(tensors, path, {case: "\n".join(names) for case, (names, _) in short.items()})


def main() -> int:
    """Record, compare or summarize; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "compare", "summarize"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    if options.what == "summarize" and len(options.only) < len(CASES):
        parser.error("summarize writes all cases; leave --only out")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    now: dict[str, Numbers] = {case: CASES[case]() for case in options.only}
    if options.what == "summarize":
        _summarize(options.file, now)
        return 0
    every = {name: tensor.contiguous().clone() for name, tensor in nested(now.items()).items()}
    if options.what == "compare":
        return _compare(options.file, every)
    save_file(every, options.file, versions())
    return 0


if __name__ == "__main__":
    sys.exit(main())
