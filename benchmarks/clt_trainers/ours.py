"""Trains a cross-layer transcoder with tl-attribution's own step, on the same activations.

Runs in the project's environment. BatchTopK with k on average over layers, annealed as by default;
on noise k is constant, so that every step costs what a peer's does. AuxK off unless ``--aux-k`` is,
activations normalized as in a run; Adam with warm-up and decay.
"""

import torch
from common import Clock, activations, parse, parser, per_layer, report

import tl_attribution as tla
from tl_attribution.training import normalization
from tl_attribution.training.buffer import Batch
from tl_attribution.training.distributed import ProcessGrid
from tl_attribution.training.model import TrainingTranscoder
from tl_attribution.training.optimizer import Optimizer

options = parser(__doc__)
options.add_argument("--activation", choices=("batchtopk", "topk"), default="batchtopk")
options.add_argument("--k-per-layer", type=int, default=0, help="1: k active in each layer")
options.add_argument("--aux-k", type=int, default=0)
options.add_argument("--k-start", type=int, help="k of a layer at first, to anneal from")
args = parse(options)
constant = None if args.activations else per_layer(args)
data = activations(args)
config = tla.TrainingConfig(
    n_features=args.features,
    tokens=args.steps * args.batch,
    activation=args.activation,
    k=per_layer(args),
    k_per_layer=bool(args.k_per_layer),
    k_start=args.k_start or constant,
    batch_size=args.batch,
    buffer_size=args.batch,
    learning_rate=args.lr,
    aux_k=args.aux_k,
    seed=args.seed,
)
grid = ProcessGrid(torch.device("cpu"))
transcoder = TrainingTranscoder(config, args.layers, args.width, grid)
optimizer = Optimizer(transcoder, grid)


def by_layer(x: torch.Tensor, y: torch.Tensor) -> Batch:
    """[layer, token, width] from [token, layer, width]."""
    return Batch(x.transpose(0, 1), y.transpose(0, 1))


# Laid out by layer, as in the buffer of a run, so that no step has to copy them.
for name in ("inputs", "outputs"):
    setattr(data, name, getattr(data, name).transpose(0, 1).contiguous().transpose(0, 1))
batches = (by_layer(x, y) for x, y in data.batches())
units = normalization.measure([by_layer(data.inputs[:16_384], data.outputs[:16_384])], grid)
idle = torch.zeros(args.layers, args.features, dtype=torch.long)
clock = Clock()
loss, batch = 0.0, None
for step in range(args.steps):
    clock.tick()
    batch = units.normalize(next(batches), batch)  # as in a run
    result = transcoder(batch, step, idle >= config.dead_after)
    optimizer.update(result.loss, step)
    idle = torch.where(result.active > 0, 0, idle + args.batch)
    loss = float(result.loss.detach())
clock.tick()
threshold = torch.zeros(args.layers)
if args.activation == "batchtopk":
    inputs = [units.normalize(next(batches)).inputs for _ in range(8)]
    threshold = torch.stack([transcoder.thresholds(x) for x in inputs]).mean(0)
dictionary = transcoder.to_dictionary(units, threshold, "activations")


def predict(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and active features of inputs [token, layer, width], by the saved dictionary."""
    x = inputs.transpose(0, 1).contiguous()
    acts = dictionary.encode(x)
    return dictionary.decode(acts, x).transpose(0, 1), (acts > 0).sum(-1).T


report("tl-attribution", "this checkout", data, clock, loss, predict)
