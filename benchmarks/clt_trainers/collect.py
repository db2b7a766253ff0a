"""Writes Atlas's MLP activations on its own text to a file, for ``compare.py --activations``.

python benchmarks/clt_trainers/collect.py activations.safetensors --tokens 200000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import tl_attribution as tla
from tl_attribution.atlas import corpus
from tl_attribution.replacement.host import host_for
from tl_attribution.training.buffer import Buffer
from tl_attribution.training.data import open_rows, reader_for

HELD_OUT = 16_384


def main() -> None:
    """Collect tokens in random order; the last ones are held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000)
    given = parser.parse_args()
    model = tla.load_model("atlas")
    host = host_for(model)
    config = tla.TrainingConfig()
    read = reader_for(
        model,
        host,
        host.read_site(config.feature_input_hook),
        host.write_site(config.feature_output_hook),
    )
    total = (given.tokens + HELD_OUT) // 8 * 8
    rows = open_rows(corpus.sentences(), host, context=32, concat=False)
    buffer = Buffer(read, rows, capacity=total, batch=total, prefix=1, seed=0, rows_at_once=256)
    batch = buffer.next()
    inputs, outputs = (t.transpose(0, 1).contiguous() for t in batch)
    tensors = {
        "inputs": inputs[:-HELD_OUT],
        "outputs": outputs[:-HELD_OUT],
        "val_inputs": inputs[-HELD_OUT:],
        "val_outputs": outputs[-HELD_OUT:],
    }
    save_file({k: t.clone() for k, t in tensors.items()}, given.out)
    print(f"{given.out}: {len(inputs):,} tokens, {inputs.shape[1]} layers of {inputs.shape[2]}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
