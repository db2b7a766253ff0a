"""A cross-layer transcoder larger than the memory that may be used: 8 GB on disk, opened by its
headers, and a prompt traced through it with encoders read one layer at a time and only the
decoders of active features. The files are deleted afterwards.

    python benchmarks/big_dictionary.py [--gigabytes 8] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import THREADS, Measured, show
from safetensors.torch import save_file

LAYERS, WIDTH, POSITIONS, VOCABULARY = 12, 768, 12, 1000
RARE = -3.3
"""Bias of every feature; pre-activations without it are of size 1, so 5 of 10,000 are active."""


def make(folder: Path, gigabytes: float) -> int:
    """Write the dictionary in our format, one layer at a time; returns features per layer."""
    matrices = LAYERS + LAYERS * (LAYERS + 1) // 2
    features = math.ceil(gigabytes * 1e9 / (4 * matrices * WIDTH))
    torch.manual_seed(0)
    for layer in range(LAYERS):
        decoder = torch.empty(features, LAYERS - layer, WIDTH).normal_(std=0.02)
        tensors = {
            "W_enc": torch.empty(features, WIDTH).normal_(std=WIDTH**-0.5),
            "b_enc": torch.full((features,), RARE),
            "W_dec": decoder,
            "b_dec": torch.zeros(WIDTH),
        }
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    config = {
        "format": "tl-attribution dictionary",
        "version": 1,
        "kind": "cross-layer transcoder",
        "n_layers": LAYERS,
        "n_features": features,
        "d_model": WIDTH,
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "model_name": None,
        "activation": {"name": "relu"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return features


def status(name: str) -> int:
    """Bytes of resident memory as Linux counts them: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def reset_peak() -> int:
    """Reset the peak; returns resident bytes. Sampling would miss short peaks."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def trace(folder: Path) -> None:
    """Open and trace, in a separate process; prints the measurements."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    import tl_attribution as tla

    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=LAYERS,
            d_model=WIDTH,
            n_heads=12,
            d_head=64,
            d_mlp=4 * WIDTH,
            d_vocab=VOCABULARY,
            n_ctx=64,
            act_fn="gelu_new",
            normalization_type="LN",
            device="cpu",
        )
    )
    tokens = torch.randint(1, VOCABULARY, (POSITIONS,))
    tla.attribute(model, tokens, tla.neurons(model), prefix=1, max_features=10)  # imports, buffers
    start = time.perf_counter()
    tla.load_dictionary(folder)
    opening = time.perf_counter() - start
    before = reset_peak()
    with Measured() as measured:
        graph = tla.attribute(model, tokens, tla.load_dictionary(folder), prefix=1)
    measurements = {
        "seconds to open": opening,
        "seconds to trace": measured.seconds,
        "peak GB above the model": (status("VmHWM") - before) / 1e9,
        "of it, sampled every 10 ms": measured.gigabytes,
        "nodes": len(graph.nodes),
        "residual": graph.residual(),
    }
    print(json.dumps(measurements))


def main() -> None:
    """Write the dictionary, measure, delete it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="where there is room; default: here")
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.trace:
        trace(arguments.trace)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder or ".", prefix="big-") as name:
        folder = Path(name)
        features = make(folder, arguments.gigabytes)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        command = [sys.executable, __file__, "--trace", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        measurements = json.loads(done.stdout.splitlines()[-1])
    shape = f"{LAYERS} layers, width {WIDTH}, {features} features per layer, {POSITIONS} positions"
    show(f"A CLT of {size:.1f} GB ({shape})", measurements)


if __name__ == "__main__":
    main()
