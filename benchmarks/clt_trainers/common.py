"""What every peer script shares: arguments, activations, timing and the printed line.

`--k` is the number of active features per token summed over the layers; a peer whose
k is per layer gets k / layers. Without `--activations` the batches are Gaussian noise
and only the speed means something. With it, a safetensors file gives `inputs` and
`outputs` to train on and `val_inputs` and `val_outputs` to score on, each
[tokens, n_layers, d_model].
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

# Two scripts bear the name of the package that they import after this module.
sys.path.remove(str(Path(__file__).parent))


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments that scripts share, with the first line of `description`."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for name, default in (
        ("layers", 4),
        ("width", 128),
        ("features", 1024),
        ("k", 32),
        ("batch", 1024),
        ("steps", 5),
        ("threads", 2),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, help="the peer's own default when absent")
    parser.add_argument(
        "--activations", help="safetensors file; its shape replaces layers and width"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed arguments, once torch's threads and seed are set by them."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


@dataclass
class Activations:
    """Inputs and outputs, and both held out if there are any, each [tokens, layers, width]."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    validation: tuple[torch.Tensor, torch.Tensor] | None
    batch: int

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Consecutive batches, from the start again once fewer than a batch is left."""
        while True:
            for start in range(0, len(self.inputs) - self.batch + 1, self.batch):
                rows = slice(start, start + self.batch)
                yield self.inputs[rows], self.outputs[rows]


def activations(args: argparse.Namespace) -> Activations:
    """The file's activations, whose shape is written into `args`, or noise for four batches."""
    if args.activations is None:
        shape = (4 * args.batch, args.layers, args.width)
        return Activations(torch.randn(shape), torch.randn(shape), None, args.batch)
    tensors = {name: value.float() for name, value in load_file(args.activations).items()}
    args.layers, args.width = tensors["inputs"].shape[1:]
    args.batch = min(args.batch, len(tensors["inputs"]))
    validation = tensors["val_inputs"], tensors["val_outputs"]
    return Activations(tensors["inputs"], tensors["outputs"], validation, args.batch)


def per_layer(args: argparse.Namespace) -> int:
    """k for a peer that counts active features in each layer by itself."""
    k, rest = divmod(args.k, args.layers)
    if rest:
        raise SystemExit(
            f"--k {args.k} is not a multiple of {args.layers} layers, which this peer needs"
        )
    return k


class Clock:
    """The median step's seconds, but for the first step, whose allocations are one-off. With one
    thread it is the processor's time that counts, so that other programs take nothing away.

    One tick precedes every step and one ends the last.
    """

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def tick(self) -> None:
        """Notes the time."""
        self.ticks.append(
            time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        )

    def seconds(self) -> float:
        """The median step's seconds, without the first step if there are more."""
        steps = [after - before for before, after in pairwise(self.ticks)]
        return median(steps[1:] or steps)


def nmse(predicted: torch.Tensor, target: torch.Tensor) -> float:
    """Squared error over the target's variance, both [tokens, layers, width]; layers' mean."""
    error = (predicted - target).square().sum((0, 2))
    deviation = (target - target.mean(0)).square().sum((0, 2))
    return (error / deviation).mean().item()


Predict = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def report(
    peer: str, version: str, data: Activations, clock: Clock, loss: float, predict: Predict
) -> None:
    """Prints the script's line as JSON: speed, memory and quality.

    `predict` maps inputs to outputs in the units of the targets, both [tokens, layers, width],
    and active features [tokens, layers].
    """
    score = active = None
    if data.validation is not None:
        inputs, targets = data.validation
        pairs = [predict(chunk) for chunk in inputs.split(data.batch)]
        score = nmse(torch.cat([outputs for outputs, _ in pairs]), targets)
        active = torch.cat([counts for _, counts in pairs]).float().mean().item()
    else:
        active = predict(data.inputs[: data.batch])[1].float().mean().item()
    seconds = clock.seconds()
    line = {
        "peer": peer,
        "version_or_commit": version,
        "tokens_per_second": round(data.batch / seconds, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "seconds_per_step": round(seconds, 5),
        "loss_last": loss,
        "nmse": score,
        "l0": active,
    }
    print(json.dumps(line))
