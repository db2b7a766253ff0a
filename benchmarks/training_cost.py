"""How training's cost grows: tokens per second and memory against features and layers.

    python benchmarks/training_cost.py

Each row trains a cross-layer transcoder in a process of its own on a model with random weights.
``memory`` is the peak above the model's, ``needs`` what weights, gradients, Adam's moments and the
activation buffer take: the peak must be at most 1.2 times that. ``expected`` is the time a token
should take, relative to the first row, if time went by what must be computed (encoders L·F·d,
active decoders k·d·L(L+1)/2, Adam 7 passes over the weights); ``time`` is what it took. k is
annealed as by default: the peak is that of the first steps, with four times as many active
features, and the time that of the last ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

WIDTH, BATCH, K, STEPS = 64, 1024, 8, 9
FEATURES = ((4, 512), (4, 1024), (4, 2048), (4, 4096), (4, 8192), (4, 16384))
LAYERS = ((8, 1024), (12, 1024), (16, 1024), (24, 1024))
FLOP_A_BYTE = 10
"""How many operations a processor does in the time that it moves a byte."""


def measure(n_layers: int, n_features: int, buffer: int) -> dict[str, float]:
    """Train for some steps in this process."""
    import torch
    from common import Measured, Shape, new_model

    import tl_attribution as tla

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = new_model(Shape(n_layers, WIDTH, 2, 2 * WIDTH, 100, n_features, 32, 0))
    batches = (torch.randint(1, 100, (64, 33)) for _ in range(10**6))
    config = tla.TrainingConfig(
        n_features=n_features,
        tokens=STEPS * BATCH,
        batch_size=BATCH,
        buffer_size=buffer,
        k=K,
        context_size=33,
        concat=False,
        log_every=1,
        checkpoint_every=10**6,
    )
    paces: list[float] = []

    class Watch(tla.Callback):
        def on_record(self, record: Any) -> None:
            paces.append(record.step / record.tokens_per_second * BATCH)

    with Measured() as measured:
        dictionary = tla.train(model, batches, config, callbacks=[Watch()])
    times = [after - before for before, after in pairwise(paces)]
    weights = sum(
        t.numel() for w in dictionary.layers for t in (w.W_enc, w.b_enc, w.W_dec, w.b_dec)
    )
    needs = 16 * weights + 8 * buffer * n_layers * WIDTH
    seconds = median(times[-3:])  # when k is what it ends with
    return {"pace": BATCH / seconds, "memory": measured.gigabytes * 1e9, "needs": needs}


def expected(n_layers: int, n_features: int) -> float:
    """Operations a token, as the docstring says."""
    written = n_layers * (n_layers + 1) / 2
    weights = n_features * WIDTH * (n_layers + written)
    products = 2 * WIDTH * (n_layers * n_features + K * (n_layers + 3 * written))
    return products + 7 * 4 * weights / BATCH * FLOP_A_BYTE


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int, nargs=2, metavar=("LAYERS", "FEATURES"))
    parser.add_argument("--buffer", type=int, default=262_144, help="tokens held and shuffled")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.buffer)))
        return
    print(f"width {WIDTH}, batch {BATCH}, k {K}, buffer {args.buffer} tokens, one thread")
    print("layers features   tokens/s   expected   time    memory     needs  ratio")
    first = None
    for shape in FEATURES + LAYERS:
        command = [sys.executable, str(Path(__file__)), "--one", *map(str, shape)]
        command += ["--buffer", str(args.buffer)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        first = first or (expected(*shape), row["pace"])
        print(
            f"{shape[0]:6} {shape[1]:8} {row['pace']:10,.0f} {expected(*shape) / first[0]:10.1f} "
            f"{first[1] / row['pace']:6.1f} {row['memory'] / 2**20:6,.0f} MB "
            f"{row['needs'] / 2**20:6,.0f} MB {row['memory'] / row['needs']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
