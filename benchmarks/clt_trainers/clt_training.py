r"""Trains a cross-layer transcoder with EleutherAI/clt-training.

Commit cf9821f2b11faa36b821c0659a27d4542078dca6 (package `sparsify`, eai-sparsify 1.1.3).
Its `Trainer` hooks a model's layers; the script gives it a stand-in model that replays
activations, its "token ids" being row numbers, so that forward, per-layer local backward
and optimiser step are the trainer's own.

Activation: TopK in each layer by itself (`--activation batchtopk` for the batch's).
Loss: per target layer, squared error over the batch's variance (FVU), its gradient taken
layer by layer; no auxiliary loss, no normalisation of the activations.
Optimiser: schedule-free sign-SGD by default, 5e-3 / sqrt(features / 2^14).
The encoder's forward is dense; decoder and encoder backward are sparse.

Limits here: the Triton kernels need a GPU. SPARSIFY_DISABLE_TRITON gives the repository's
own `embedding_bag` decoder; the kernel for the encoder's weight gradient has no fallback
and is replaced by sums over bags (PyTorch's product with a sparse matrix takes up to twice
as long). Compilation is off. At this commit untied decoders fail, as `ForwardOutput` is
still built with two fields that it has lost; the script drops them.

Runs in an environment of its own. The repository pins torch 2.7.1, hence --no-deps:

    python -m venv .venv-clt-training
    .venv-clt-training/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    .venv-clt-training/bin/pip install accelerate==1.15.0 datasets==5.2.0 einops==0.8.2 \
        ftfy==6.3.1 natsort==8.4.0 numpy==2.4.6 rich==15.0.0 safetensors==0.8.0 \
        schedulefree==1.4.1 simple-parsing==0.1.9 torchao==0.18.0 transformers==5.23.0 \
        triton==3.9.0 wandb==0.31.0
    .venv-clt-training/bin/pip install --no-deps \
        git+https://github.com/EleutherAI/clt-training@cf9821f2b11faa36b821c0659a27d4542078dca6
"""

import os
import tempfile
from types import SimpleNamespace

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
os.environ["SPARSIFY_NO_COMPILE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from common import Activations, Clock, activations, parse, parser, per_layer, report
from sparsify import (
    CrossLayerRunner,
    SparseCoderConfig,
    TrainConfig,
    Trainer,
    fused_encoder,
    sparse_coder,
)
from torch import nn
from torch.nn.functional import embedding_bag


def transpose_matmul(
    indices: torch.Tensor, values: torch.Tensor, dense: torch.Tensor, N: int
) -> torch.Tensor:
    """The [tokens, N] sparse matrix of `values` at columns `indices`, transposed, times `dense`."""
    feature = indices.flatten()
    order = feature.argsort(stable=True)
    counts = torch.bincount(feature, minlength=N)
    return embedding_bag(
        order // indices.shape[1],
        dense,
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        mode="sum",
        per_sample_weights=values.flatten()[order],
        include_last_offset=True,
    )


ForwardOutput = sparse_coder.ForwardOutput
sparse_coder.ForwardOutput = lambda *fields: ForwardOutput(*fields[:4], fields[-1])
fused_encoder.triton_sparse_transpose_dense_matmul = transpose_matmul


class Replay(nn.Module):
    """A model whose layers, called with stored inputs, return the stored outputs."""

    def __init__(self, data: Activations, clock: Clock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(data.inputs.shape[1]))
        self.data, self.clock = data, clock
        self.config = SimpleNamespace(num_hidden_layers=len(self.layers), bos_token_id=-1)
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    @property
    def base_model(self) -> nn.Module:
        """The model itself, where the trainer looks for the layers to hook."""
        return self

    def forward(self, input_ids: torch.Tensor) -> None:
        """Replays the rows numbered `input_ids` [1, tokens] and ticks the clock."""
        self.clock.tick()
        inputs, outputs = self.data.inputs[input_ids], self.data.outputs[input_ids]
        for number, layer in enumerate(self.layers):
            layer(inputs[:, :, number].contiguous(), outputs[:, :, number].contiguous())


class Layer(nn.Module):
    """A layer without weights, there for the trainer's hooks."""

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs as given; both are [1, tokens, width]."""
        return outputs


class Rows:
    """One item per step: the row numbers of its batch."""

    def __init__(self, steps: int, batch: int, tokens: int) -> None:
        self.steps, self.batch, self.per_pass = steps, batch, tokens // batch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        start = step % self.per_pass * self.batch
        return {"input_ids": torch.arange(start, start + self.batch)}


options = parser(__doc__)
options.add_argument("--activation", choices=("topk", "batchtopk"), default="topk")
options.add_argument("--optimizer", choices=("signum", "adam"), default="signum")
args = parse(options)
data = activations(args)
clock = Clock()

losses: list[float] = []
decode = CrossLayerRunner.decode


def recorded(*positional, **named):
    """The runner's own `decode`, whose loss for one target layer is noted."""
    output = decode(*positional, **named)
    losses.append(output.fvu.item())
    return output


with tempfile.TemporaryDirectory() as results:
    config = TrainConfig(
        SparseCoderConfig(
            activation=args.activation, num_latents=args.features, k=per_layer(args), transcode=True
        ),
        cross_layer=args.layers,
        batch_size=1,  # one row of token ids, a whole batch of activations
        optimizer=args.optimizer,
        lr=args.lr,
        lr_warmup_steps=min(1000, args.steps // 10),  # 1000, unless that outlasts the run
        # Nothing to filter here, but False clears its mask by an in-place & that newer torch
        # refuses.
        filter_bos=True,
        log_to_wandb=False,
        save_every=args.steps + 2,
        save_dir=results,
    )
    trainer = Trainer(config, Rows(args.steps, args.batch, len(data.inputs)), Replay(data, clock))
    clock.ticks.clear()
    trainer.save = clock.tick  # the checkpoint that follows the last step
    CrossLayerRunner.decode = recorded
    trainer.fit()
    CrossLayerRunner.decode = decode
for optimizer in trainer.optimizers:
    if hasattr(optimizer, "eval"):
        optimizer.eval()  # schedule-free: the averaged weights


def predict(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and active features [tokens, layers] of inputs [tokens, layers, width]."""
    runner = CrossLayerRunner()
    outputs, counts = [], []
    for layer, (name, coder) in enumerate(trainer.saes.items()):
        encoding = runner.encode(inputs[:, layer], coder)
        counts.append((encoding.latent_acts > 0).sum(-1))
        outputs.append(runner.decode(encoding, torch.zeros_like(inputs[:, layer]), name).sae_out)
    return torch.stack(outputs, 1), torch.stack(counts, 1)


loss = sum(losses[-args.layers :]) / args.layers
report("clt-training", "cf9821f", data, clock, loss, predict)
