"""circuit-tracer's dictionaries, saved and computed by its own code, and with ``--read`` what it
computes with those that tl_attribution wrote. In circuit-tracer's environment (0.5.0):

    python circuit_tracer_.py OUT           python circuit_tracer_.py OUT --read
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cases
import torch
import yaml
from cases import FEATURES, LAYERS, WIDTH
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.utils.caching import get_cached_path, load_transcoders_from_cache
from safetensors.torch import load_file
from torch.nn import functional as F

FP32 = {"dtype": torch.float32, "device": torch.device("cpu")}


def config(folder: Path, kind: str) -> None:
    """The config of a folder."""
    said = {"model_name": "tiny", "model_kind": kind, "scan": "tiny"}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(said | hooks))


def clt(name: str) -> CrossLayerTranscoder:
    """A random CLT."""
    act = "jump_relu" if "jump" in name else "relu"
    model = CrossLayerTranscoder(LAYERS, FEATURES, WIDTH, act, lazy_decoder=False, **FP32)
    cases.randomise(model)
    if act == "jump_relu":
        model.activation_function.threshold.data.sub_(0.1)  # some below zero
    return model


def transcoders(name: str) -> TranscoderSet:
    """A random set of transcoders."""
    made = {}
    for layer in range(LAYERS):
        act = JumpReLU(0.3 * torch.randn(FEATURES)) if "jump" in name else F.relu
        skip = "skip" in name
        made[layer] = SingleLayerTranscoder(WIDTH, FEATURES, act, layer, skip, **FP32)
        cases.randomise(made[layer], except_for=("threshold",))
    return TranscoderSet(made, "hook_resid_mid", "hook_mlp_out")


def make(out: Path) -> None:
    """Write every variant and what it computes."""
    names = [
        "clt-relu",
        "clt-jumprelu",
        "set-relu",
        "set-jumprelu",
        "set-skip",
        "set-jumprelu-skip",
    ]
    for name, folder, into in cases.variants(out, "circuit-tracer", names):
        is_clt = name.startswith("clt")
        model, x = (clt if is_clt else transcoders)(name), cases.inputs()
        model.to_safetensors(str(into))
        config(into, "cross_layer_transcoder" if is_clt else "transcoder_set")
        acts = model.encode(x)
        recon = model.decode(acts, x)
        cases.write(folder, x, acts, recon)


def read(out: Path) -> None:
    """Open what compare.py wrote, as circuit-tracer opens a repository it has cached."""
    for folder in sorted((out / "written").glob("circuit-tracer-*")):
        name = str((folder / "dictionary").relative_to(out))
        assert get_cached_path(name, out) == folder / "dictionary"
        model, said = load_transcoders_from_cache(name, out, **FP32)
        expected = load_file(folder / "expected.safetensors")
        acts = model.encode(expected["x"])
        recon = model.decode(acts.to_sparse() if "clt" in folder.name else acts, expected["x"])
        for part, found in (("acts", acts), ("recon", recon)):
            wrong = float((found - expected[part]).abs().max() / expected[part].abs().max())
            print(f"{folder.name}: {part} differ by {wrong:.1e} relative")
            assert wrong < 1e-5
        print(f"  {said}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--read", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    (read if arguments.read else make)(arguments.out)
