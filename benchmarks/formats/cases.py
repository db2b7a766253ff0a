"""What the peers' scripts share: a case is a dictionary that a peer's own code saved, and what that
code computes with it. Nothing of tl_attribution is imported: this runs in the peers' environments.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LAYERS, POSITIONS, WIDTH, FEATURES = 3, 7, 16, 40


def arguments(description: str | None) -> Path:
    """The folder to write cases into, from the command line; fixes the seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    return parser.parse_args().out


def randomise(model: nn.Module, *, except_for: tuple[str, ...] = ()) -> None:
    """Random numbers of a usual size for every parameter, biases and skips too."""
    for name, parameter in model.named_parameters():
        if not any(part in name for part in except_for):
            size = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype) * size


def inputs() -> Tensor:
    """Random activations [layer, position, d_model], off centre as real ones are."""
    return torch.randn(LAYERS, POSITIONS, WIDTH) * 2 + 0.5 * torch.randn(LAYERS, 1, WIDTH)


def write(folder: Path, x: Tensor, acts: Tensor, recon: Tensor) -> None:
    """What the peer computes: activations [layer, position, feature] and reconstruction."""
    tensors = {"x": x, "acts": acts, "recon": recon}
    save_file(
        {k: t.contiguous().float() for k, t in tensors.items()}, folder / "expected.safetensors"
    )
    print(f"{folder}: {float((acts != 0).sum(-1).float().mean()):.1f} features active")


def variants(out: Path, peer: str, names: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """For each variant its name, its folder and the folder that its dictionary goes into."""
    for name in names:
        folder = out / peer / name
        dictionary = folder / "dictionary"
        dictionary.mkdir(parents=True, exist_ok=True)
        yield name, folder, dictionary
