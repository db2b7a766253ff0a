"""Shared by the peers' scripts. A case is a dictionary saved by a peer's code, with the activations
and reconstruction that this code computes. Runs in the peers' environments, so it imports nothing
of tl_attribution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LAYERS, POSITIONS, WIDTH, FEATURES = 3, 7, 16, 40
TOLERANCE = 1e-5


def arguments(description: str | None) -> Path:
    """The folder to write cases into, from the command line; fixes the seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    return parser.parse_args().out


def randomize(model: nn.Module, *, except_for: tuple[str, ...] = ()) -> None:
    """Set every parameter, also biases and skips, to random numbers of a usual size."""
    for name, parameter in model.named_parameters():
        if not any(part in name for part in except_for):
            size = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype) * size


def inputs() -> Tensor:
    """Random activations [layer, position, d_model], off center as real ones are."""
    return torch.randn(LAYERS, POSITIONS, WIDTH) * 2 + 0.5 * torch.randn(LAYERS, 1, WIDTH)


def write(folder: Path, x: Tensor, acts: Tensor, recon: Tensor) -> None:
    """Write a peer's results: activations [layer, position, feature] and reconstruction."""
    tensors = {"x": x, "acts": acts, "recon": recon}
    save_file(
        {k: t.contiguous().float() for k, t in tensors.items()}, folder / "expected.safetensors"
    )
    print(f"{folder}: {float((acts != 0).sum(-1).float().mean()):.1f} features active")


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((actual - expected).abs().max() / expected.abs().max())


def check_agreement(folder: Path, acts: Tensor, recon: Tensor) -> None:
    """Print the difference between a peer's results and ours; exit if it exceeds rounding."""
    expected = load_file(folder / "expected.safetensors")
    for part, actual in (("acts", acts), ("recon", recon)):
        difference = relative_difference(actual, expected[part])
        print(f"{folder.name}: {part} differ by {difference:.1e} relative")
        if not difference < TOLERANCE:
            raise SystemExit(f"{folder.name}: the peer's {part} differ from ours")


def ours(out: Path, form: str) -> Iterator[tuple[Path, Tensor]]:
    """For each dictionary that compare.py wrote in a format, its case's folder and x."""
    for folder in sorted((out / "written").glob(f"{form}-*")):
        yield folder, load_file(folder / "expected.safetensors")["x"]


def run(
    description: str | None, make: Callable[[Path], None], read: Callable[[Path], None]
) -> None:
    """Command line: write cases, or with ``--read`` read those of compare.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    parser.add_argument("--read", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    (read if arguments.read else make)(arguments.out)


def variants(out: Path, peer: str, names: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """For each variant its name, its folder and the folder that its dictionary goes into."""
    for name in names:
        folder = out / peer / name
        dictionary = folder / "dictionary"
        dictionary.mkdir(parents=True, exist_ok=True)
        yield name, folder, dictionary
