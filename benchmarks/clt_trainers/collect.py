"""Writes a model's MLP activations to a file, for ``compare.py --activations``.

    python benchmarks/clt_trainers/collect.py activations.safetensors --tokens 200000
    python benchmarks/clt_trainers/collect.py smollm2.safetensors --model smollm2 --layers 8 12

Atlas reads its own text; SmolLM2-135M, whose weights ``../train_real_model.py`` says how to
install, the docstrings of the Python packages that are installed here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tl_attribution as tla
from tl_attribution.atlas import corpus
from tl_attribution.hosts.protocols import MlpPairs
from tl_attribution.hosts.registry import host_for
from tl_attribution.training.activation_reader import ActivationReader, reader_for
from tl_attribution.training.buffer import Buffer
from tl_attribution.training.contexts import Contexts
from tl_attribution.training.datasets import open_contexts

HELD_OUT = 16_384


def opened(name: str, tokens: int) -> tuple[Any, list[str], dict[str, Any]]:
    """A model, its text, and how the text is cut into rows."""
    if name == "atlas":
        return tla.load_model("atlas"), corpus.sentences(), {"context": 32, "concat": False}
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from train_real_model import boot, collected

    return boot(name), collected(5 * tokens), {"context": 64}


def some_layers(read: ActivationReader, layers: slice) -> ActivationReader:
    """A reader that keeps these layers alone."""

    def read_some(rows: Contexts) -> MlpPairs:
        return MlpPairs(*(t[:, :, layers] for t in read(rows)))

    return read_some


def main() -> None:
    """Collect tokens in random order; the last ones are held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("atlas", "smollm2"), default="atlas")
    parser.add_argument("--layers", type=int, nargs=2, help="the first, and the one after the last")
    parser.add_argument("--tokens", type=int, default=200_000)
    args = parser.parse_args()
    total = (args.tokens + HELD_OUT) // 8 * 8
    model, text, cut = opened(args.model, total)
    host = host_for(model)
    config = tla.TrainingConfig()
    sites = host.read_site(config.feature_input_hook), host.write_site(config.feature_output_hook)
    layers = slice(*(args.layers or (0, None)))
    buffer = Buffer(
        some_layers(reader_for(model, host, *sites), layers),
        open_contexts(text, host, **cut),
        capacity=total,
        batch_size=total,
        prefix=1,
        seed=0,
    )
    inputs, outputs = (t.transpose(0, 1).contiguous() for t in buffer.next())
    tensors = {
        "inputs": inputs[:-HELD_OUT],
        "outputs": outputs[:-HELD_OUT],
        "val_inputs": inputs[-HELD_OUT:],
        "val_outputs": outputs[-HELD_OUT:],
    }
    save_file({k: t.clone() for k, t in tensors.items()}, args.out)
    print(f"{args.out}: {len(inputs):,} tokens, {inputs.shape[1]} layers of {inputs.shape[2]}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
