"""Compare tl_attribution with its peers on dictionaries that the peers' scripts wrote, and write
dictionaries in the peers' formats for their scripts to read (``--read``). In our environment:

    python benchmarks/formats/compare.py OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cases import FEATURES, LAYERS, TOLERANCE, WIDTH, inputs, relative_difference, write
from safetensors.torch import load_file

import tl_attribution as tla
from tl_attribution.dictionaries.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.formats.writing import SaveFormat
from tl_attribution.dictionaries.transcoder import LayerWeights

HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
WRITTEN: dict[str, tuple[SaveFormat, bool, bool, Activation]] = {
    "circuit-tracer-clt-relu": ("circuit-tracer", True, False, ReLU()),
    "circuit-tracer-clt-jumprelu": ("circuit-tracer", True, False, JumpReLU(torch.rand(3, 40))),
    "circuit-tracer-clt-window": ("circuit-tracer", True, False, ReLU()),
    "circuit-tracer-set-skip": ("circuit-tracer", False, True, JumpReLU(torch.rand(3, 40))),
    "circuit-tracer-set-relu": ("circuit-tracer", False, False, ReLU()),
    "sae-lens-relu": ("sae-lens", False, False, ReLU()),
    "sae-lens-skip": ("sae-lens", False, True, ReLU()),
    "sae-lens-batchtopk": ("sae-lens", False, True, BatchTopK(5, 0.4)),
    "sae-lens-clt-topk": ("sae-lens", True, True, TopK(5)),
    "sae-lens-clt-window": ("sae-lens", True, False, JumpReLU(torch.rand(3, 40))),
    "sae-lens-jumprelu": ("sae-lens", False, False, JumpReLU(torch.rand(3, 40))),
}
"""Format, cross-layer, skip and activation of the dictionaries that are written."""


def compare(folder: Path) -> bool:
    """Compare one case, print the differences, and return whether they are within rounding."""
    expected = load_file(folder / "expected.safetensors")
    dictionary = tla.load_dictionary(folder / "dictionary", **HOOKS)
    acts = dictionary.encode(expected["x"])
    differences = [relative_difference(acts, expected["acts"])]
    differences.append(
        relative_difference(dictionary.decode(expected["acts"], expected["x"]), expected["recon"])
    )
    good = max(differences) < TOLERANCE
    name = f"{folder.parent.name}/{folder.name}"
    encode, decode = differences
    print(f"{'ok   ' if good else 'WRONG'} {name:40} encode {encode:.1e}  decode {decode:.1e}")
    return good


def weights(layer: int, *, cross: bool, skip: bool, window: int) -> LayerWeights:
    """Random weights of a layer."""
    written = min(window, LAYERS - layer) if cross else 1
    return LayerWeights(
        torch.randn(FEATURES, WIDTH) * WIDTH**-0.5,
        torch.randn(FEATURES) * 0.3,
        torch.randn(FEATURES, written, WIDTH) * 0.2,
        torch.randn(WIDTH) * 0.2,
        torch.randn(WIDTH, WIDTH) * 0.2 if skip else None,
    )


def write_ours(out: Path) -> None:
    """Write dictionaries in other formats, and the activations and reconstructions of each."""
    for name, (form, cross, skip, activation) in WRITTEN.items():
        window = 2 if "window" in name else LAYERS
        kind = tla.CrossLayerTranscoder if cross else tla.TranscoderSet
        layers = [weights(i, cross=cross, skip=skip, window=window) for i in range(LAYERS)]
        dictionary = kind(layers, activation, **HOOKS, model_name="tiny")
        folder = out / "written" / name
        folder.mkdir(parents=True, exist_ok=True)
        dictionary.save(folder / "dictionary", format=form)
        x = inputs()
        acts = dictionary.encode(x)
        write(folder, x, acts, dictionary.decode(acts, x))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.manual_seed(1)
    write_ours(out)
    folders = sorted(p.parent for p in out.glob("*/*/expected.safetensors"))
    good = [compare(folder) for folder in folders]
    if not all(good):
        raise SystemExit("some cases differ from the peers' results")
