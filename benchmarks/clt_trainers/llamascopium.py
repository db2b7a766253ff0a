r"""Trains a cross-layer transcoder with llamascopium (OpenMOSS/Language-Model-SAEs).

PyPI llamascopium 2.0.0b34; its models/clt.py and trainer.py equal the repository's at commit
95281ac7ea409a7407f7ef4e480a368413495531. The script feeds `Trainer.fit` from memory.

Activation: `layertopk`, the top k of a token's ReLUed pre-activations over all layers
together, each scaled by its feature's decoder norm before the choice.
Loss: squared error summed over the width, averaged over tokens and layers, on activations
scaled per hook to a mean norm of sqrt(width); no auxiliary loss for CLTs.
Optimiser: Adam at 4e-4 with linear warm-up and a cool-down over the last fifth.
Encoder and decoder are dense matrix products; `--csr` asks for its sparse decoder,
which converts dense activations. In-trainer metrics and checkpoints are off.

Runs in an environment of its own, with Python 3.11 or 3.12; without the pins pip takes
transformer-lens 4, on which llamascopium fails at import:

    python -m venv .venv-llamascopium
    .venv-llamascopium/bin/pip install torch==2.13.0 \
        --index-url https://download.pytorch.org/whl/cpu
    .venv-llamascopium/bin/pip install llamascopium==2.0.0b34 transformer-lens==2.17.0 \
        transformers==4.57.6 datasets==4.6.1 pyarrow==21.0.0 numpy==1.26.4 safetensors==0.8.0
"""

import tempfile
from collections.abc import Iterator

import torch
from common import Activations, Clock, activations, parse, parser, report
from llamascopium import CLTConfig, InitializerConfig, TrainerConfig
from llamascopium.initializer import Initializer
from llamascopium.trainer import Trainer


class Stream:
    """The activations as the trainer wants them: a dictionary of hooks per batch, iterable anew."""

    def __init__(self, data: Activations, clock: Clock | None = None) -> None:
        self.data, self.clock = data, clock

    def batch(self, inputs: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each hook's [tokens, width], from [tokens, layers, width], and tokens with a mask."""
        hooks = {f"in.{layer}": inputs[:, layer] for layer in range(inputs.shape[1])}
        hooks |= {f"out.{layer}": outputs[:, layer] for layer in range(inputs.shape[1])}
        tokens = torch.zeros(len(inputs), dtype=torch.long)
        return hooks | {"tokens": tokens, "mask": torch.ones_like(tokens)}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.clock:
            self.clock.ticks.clear()
        for inputs, outputs in self.data.batches():
            if self.clock:
                self.clock.tick()
            yield self.batch(inputs, outputs)


options = parser(__doc__)
options.add_argument("--csr", action="store_true")
options.add_argument(
    "--k-warmup",
    type=float,
    default=0.0,
    help="share of the steps over which k falls from half of all",
)
args = parse(options)
data = activations(args)
clock = Clock()

config = CLTConfig(
    hook_points_in=[f"in.{layer}" for layer in range(args.layers)],
    hook_points_out=[f"out.{layer}" for layer in range(args.layers)],
    d_model=args.width,
    expansion_factor=args.features / args.width,
    act_fn="layertopk",
    top_k=args.k,
    decode_with_csr=args.csr,
)
# The decoder-transpose start, on by default, is not defined for CLTs.
initializer = Initializer(InitializerConfig(init_encoder_with_decoder_transpose=False))
model = initializer.initialize_sae_from_config(config, activation_stream=Stream(data))

losses: list[float] = []
compute_loss = model.compute_loss


def recorded(*positional, **named):
    """The model's own `compute_loss`, whose loss is noted."""
    result = compute_loss(*positional, **named)
    losses.append(result["loss"].item())
    return result


model.compute_loss = recorded
with tempfile.TemporaryDirectory() as results:
    trainer = Trainer(
        TrainerConfig(
            amp_dtype=torch.float32,
            l1_coefficient=None,
            initial_k=args.features * args.layers // 2,
            k_warmup_steps=args.k_warmup,
            lr=args.lr or 4e-4,
            # 5000, unless that outlasts the run
            lr_warm_up_steps=min(5000, max(1, args.steps // 10)),
            total_training_tokens=args.steps * args.batch,
            skip_metrics_calculation=True,
            n_checkpoints=0,
            exp_result_path=results,
        )
    )
    trainer.fit(model, Stream(data, clock))
clock.tick()


def predict(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and active features [tokens, layers] of inputs [tokens, layers, width]."""
    batch = Stream(data).batch(inputs, torch.zeros_like(inputs))
    batch, scales = model.normalize_activations(batch, return_scale_factor=True)
    features = model.encode(model.prepare_input(batch)[0])
    outputs = model.decode(features)
    for layer in range(args.layers):
        outputs[layer] /= scales[f"out.{layer}"]
    return outputs.transpose(0, 1), (features > 0).sum(-1)


report("llamascopium", "2.0.0b34", data, clock, losses[-1], predict)
