r"""Trains a cross-layer transcoder with curt-tigges/crosslayer-coding.

Commit 9499108772d656a8386bcbd826624dd6304058c9. `CLTTrainer.train` runs as it is; only
its activation store is one that serves batches from memory, normalised as its own
stores do, and its in-training evaluation is skipped.

Activation: BatchTopK over all layers together, ranked by pre-activations standardised
per feature within the batch, values kept as they are, negative ones too
(`--activation topk` for a token's top k, `--activation jumprelu` for its default).
Loss: mean squared error per layer, summed over layers, in the targets' own scale, and a
pre-activation loss (3e-6). The tanh sparsity penalty, 1e-3 by its defaults for any
activation, is off, as in its TopK tutorials: it rewards negative activations, which its
TopK lets through. `--sparsity-lambda` turns it on.
Optimiser: AdamW, linear decay to a tenth; 3e-4 here, as it asks for a rate.
Dense encoder and decoder, one matrix product per pair of layers; the encoder and
activation run twice per step, once for the loss and once within the forward pass.

Runs in an environment of its own; --no-deps leaves out torchvision and torchaudio, unused here:

    python -m venv .venv-crosslayer-coding
    .venv-crosslayer-coding/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    .venv-crosslayer-coding/bin/pip install datasets==5.2.0 h5py==3.16.0 nnsight==0.8.1 \
        numpy==2.4.6 requests==2.34.2 safetensors==0.8.0 tqdm==4.70.1 transformers==5.23.0 \
        wandb==0.31.0 zstandard==0.25.0
    .venv-crosslayer-coding/bin/pip install --no-deps \
        git+https://github.com/curt-tigges/crosslayer-coding@9499108772d656a8386bcbd826624dd6304058c9
"""

import logging
import tempfile

import torch
from clt.config import CLTConfig, TrainingConfig
from clt.training import trainer as trainer_module
from clt.training.data.base_store import BaseActivationStore
from common import Activations, Clock, activations, parse, parser, report


class MemoryStore(BaseActivationStore):
    """Standardises each layer's inputs and targets by the training set's mean and deviation."""

    def __init__(self, data: Activations, clock: Clock) -> None:
        self.stream, self.clock = data.batches(), clock
        self.mean_in, self.std_in = self.statistics(data.inputs)
        self.mean_tg, self.std_tg = self.statistics(data.outputs)

    @staticmethod
    def statistics(values: torch.Tensor) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Each layer's mean and deviation, [1, width], of values [tokens, layers, width]."""
        mean, deviation = values.mean(0, keepdim=True), values.std(0, keepdim=True) + 1e-6
        layers = range(values.shape[1])
        return {layer: mean[:, layer] for layer in layers}, {
            layer: deviation[:, layer] for layer in layers
        }

    def normalised(self, inputs: torch.Tensor) -> dict[int, torch.Tensor]:
        """Each layer's standardised inputs [tokens, width], of inputs [tokens, layers, width]."""
        return {
            layer: (inputs[:, layer] - self.mean_in[layer]) / self.std_in[layer]
            for layer in self.mean_in
        }

    def get_batch(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """The next batch's standardised inputs and targets, [tokens, width] per layer."""
        self.clock.tick()
        inputs, outputs = next(self.stream)
        targets = {
            layer: (outputs[:, layer] - self.mean_tg[layer]) / self.std_tg[layer]
            for layer in self.mean_tg
        }
        return self.normalised(inputs), targets

    def state_dict(self) -> dict:
        """Nothing: these runs are never resumed."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Does nothing, as there is no state."""

    def close(self) -> None:
        """Does nothing, as nothing is open."""


options = parser(__doc__)
options.add_argument("--activation", choices=("batchtopk", "topk", "jumprelu"), default="batchtopk")
options.add_argument("--sparsity-lambda", type=float, default=0.0)
args = parse(options)
logging.disable(logging.INFO)
data = activations(args)
clock = Clock()
store = MemoryStore(data, clock)
losses: list[float] = []


def evaluation(*_, **__) -> dict:
    """Called in place of the evaluation, after the first step and the last; that ends the clock."""
    if len(clock.ticks) == args.steps:
        clock.tick()
    return {}


def recorded(*positional, **named):
    """The loss manager's own total loss and its parts, whose total is noted."""
    total, parts = compute_total_loss(*positional, **named)
    losses.append(parts["total"])
    return total, parts


with tempfile.TemporaryDirectory() as results:
    trainer_module.create_activation_store = lambda **_: store
    trainer = trainer_module.CLTTrainer(
        CLTConfig(
            num_features=args.features,
            num_layers=args.layers,
            d_model=args.width,
            normalization_method="mean_std",
            activation_fn=args.activation,
            batchtopk_k=args.k,
            topk_k=args.k,
        ),
        TrainingConfig(
            learning_rate=args.lr or 3e-4,
            training_steps=args.steps,
            seed=args.seed,
            train_batch_size_tokens=args.batch,
            activation_path=results,
            activation_dtype="float32",
            sparsity_lambda=args.sparsity_lambda,
            eval_interval=args.steps + 1,
            checkpoint_interval=args.steps + 1,
        ),
        log_dir=results,
        device="cpu",
    )
    trainer.evaluator.compute_metrics = evaluation
    compute_total_loss = trainer.loss_manager.compute_total_loss
    trainer.loss_manager.compute_total_loss = recorded
    model = trainer.train()


def predict(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and active features [tokens, layers] of inputs [tokens, layers, width]."""
    features = model.get_feature_activations(store.normalised(inputs))
    outputs = [
        model.decode({source: features[source] for source in range(layer + 1)}, layer)
        * store.std_tg[layer]
        + store.mean_tg[layer]
        for layer in range(args.layers)
    ]
    counts = [(features[layer] != 0).sum(-1) for layer in range(args.layers)]
    return torch.stack(outputs, 1), torch.stack(counts, 1)


report("crosslayer-coding", "9499108", data, clock, losses[-1], predict)
