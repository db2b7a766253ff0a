r"""Trains a cross-layer transcoder with Goreg12345/crosslayer-transcoder.

Commit ae29e75ad9a47cceb23ad862b3a482f12cad5b77. Its Lightning module and model, put
together as in its config/topk-clt.yaml, run under Lightning's own `Trainer`.

Activation: `PerLayerTopK`, top k of each layer by itself, ReLUed
(`--activation batchtopk` for the batch's over all layers).
Loss: mean squared error on activations standardised per dimension by the first batch,
plus 1/32 of an auxiliary loss: the residual, reconstructed by the top 512 dead features
per layer, which takes a second pass through the decoder whether or not any are dead.
Optimiser: Adam at 1e-4 (the configuration's), constant over short runs.
Dense encoder and decoder. fp32 instead of 16-mixed, without torch.compile, logger and
its language-model and dead-feature metrics.

Runs in an environment of its own; the repository asks for Python 3.12 but also runs on 3.11:

    python -m venv .venv-crosslayer-transcoder
    .venv-crosslayer-transcoder/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    .venv-crosslayer-transcoder/bin/pip install datasets==5.2.0 einops==0.8.2 h5py==3.16.0 \
        jaxtyping==0.3.11 jsonargparse[signatures]==4.53.0 lightning==2.6.6 \
        nnsight==0.5.0.dev7 numpy==2.4.6 safetensors==0.8.0 transformers==5.23.0 wandb==0.31.0
    .venv-crosslayer-transcoder/bin/pip install --no-deps --ignore-requires-python \
        git+https://github.com/Goreg12345/crosslayer-transcoder@ae29e75ad9a47cceb23ad862b3a482f12cad5b77
"""

import logging
import warnings
from collections.abc import Iterator

import lightning
import torch
from common import Activations, Clock, activations, parse, parser, per_layer, report
from crosslayer_transcoder.model.clt import CrosslayerDecoder, CrossLayerTranscoder, Encoder
from crosslayer_transcoder.model.clt_lightning import TopKCrossLayerTranscoderModule
from crosslayer_transcoder.model.standardize import (
    DimensionwiseInputStandardizer,
    DimensionwiseOutputStandardizer,
)
from crosslayer_transcoder.model.topk import BatchTopK, PerLayerTopK


class Batches(torch.utils.data.IterableDataset):
    """Batches as [tokens, (inputs, outputs), layers, width]."""

    def __init__(self, data: Activations) -> None:
        self.stacked = torch.stack([data.inputs, data.outputs], 1)
        self.batch = data.batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            for start in range(0, len(self.stacked) - self.batch + 1, self.batch):
                yield self.stacked[start : start + self.batch]


class Timing(lightning.Callback):
    """Ticks the clock and keeps the last loss."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loss = float("nan")

    def on_train_batch_start(self, *_) -> None:
        """Ticks before a step."""
        self.clock.tick()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Keeps the step's loss."""
        self.loss = outputs["loss"].item()

    def on_train_end(self, *_) -> None:
        """Ticks after the last step."""
        self.clock.tick()


options = parser(__doc__)
options.add_argument("--activation", choices=("topk", "batchtopk"), default="topk")
args = parse(options)
warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
data = activations(args)
clock = Clock()
timing = Timing(clock)

k = per_layer(args)
shape = {"d_acts": args.width, "d_features": args.features, "n_layers": args.layers}
model = CrossLayerTranscoder(
    nonlinearity=PerLayerTopK(k) if args.activation == "topk" else BatchTopK(k, e=0.01),
    encoder=Encoder(**shape),
    decoder=CrosslayerDecoder(**shape),
    input_standardizer=DimensionwiseInputStandardizer(args.layers, args.width),
    output_standardizer=DimensionwiseOutputStandardizer(args.layers, args.width),
)
module = TopKCrossLayerTranscoderModule(
    topk_aux=PerLayerTopK(min(512, args.features)),
    tokens_till_dead=500_000,
    aux_loss_scale=1 / 32,
    model=model,
    learning_rate=args.lr or 1e-4,
)
trainer = lightning.Trainer(
    max_steps=args.steps,
    accelerator="cpu",
    devices=1,
    precision="32",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[timing],
)
trainer.fit(module, torch.utils.data.DataLoader(Batches(data), batch_size=None))
model.eval()


def predict(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and active features [tokens, layers] of inputs [tokens, layers, width]."""
    _, features, _, outputs = model(inputs)
    return outputs, (features > 0).sum(-1)


report("crosslayer-transcoder", "ae29e75", data, clock, timing.loss, predict)
