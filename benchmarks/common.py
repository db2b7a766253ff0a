"""Shared by the benchmarks: a GPT-2-like model and a cross-layer transcoder with random weights in
files that both sides read, measurements, tables. Imports nothing of tl_attribution, so that it also
runs in circuit-tracer's environment."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

THREADS = 2
MATMUL = 3072


@dataclass(frozen=True)
class Shape:
    """``active``: how many features the encoder biases let through, over all layers."""

    n_layers: int
    d_model: int
    n_heads: int
    d_mlp: int
    d_vocab: int
    n_features: int
    n_positions: int
    active: int


FULL = Shape(12, 768, 12, 3072, 1000, 2048, 16, 5916)
"""The shape of GPT-2 small, as in DESIGN 5."""
SMALL = Shape(3, 64, 4, 128, 100, 96, 8, 240)


def new_model(shape: Shape) -> Any:
    """A HookedTransformer with TransformerLens's random weights, LayerNorm not folded."""
    from transformer_lens import HookedTransformer

    return HookedTransformer(model_config(shape)).eval()


def model_config(shape: Shape) -> Any:
    """The model's configuration."""
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig(
        model_name="random-gpt2",
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        d_head=shape.d_model // shape.n_heads,
        d_mlp=shape.d_mlp,
        d_vocab=shape.d_vocab,
        n_ctx=64,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
        seed=0,
    )


def make(shape: Shape, folder: Path) -> None:
    """Write a model, a prompt and a transcoder's weights to ``folder``. Biases and norms are random
    too: trained ones are not zero, and what they carry is part of the question."""
    torch.manual_seed(0)
    model = new_model(shape)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or ".b_" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    tokens = torch.randint(1, shape.d_vocab, (shape.n_positions,))
    tokens[0] = 0  # stands for BOS: both sides leave out position 0's features
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens[None])
    (folder / "shape.json").write_text(json.dumps(asdict(shape)))
    weights = {name: p.data.contiguous() for name, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    save_file({"tokens": tokens}, folder / "prompt.safetensors")
    for layer in range(shape.n_layers):
        save_file(_transcoder(shape, layer, cache), folder / f"transcoder_{layer}.safetensors")


def _transcoder(shape: Shape, layer: int, cache: Any) -> dict[str, Tensor]:
    """One layer's weights: pre-activations of size 1, a bias for the target number of active
    features, and decoders whose outputs together are about as large as the MLPs'."""
    read = cache[f"blocks.{layer}.hook_resid_mid"][0, 1:]
    encoder = torch.randn(shape.n_features, shape.d_model) / read.norm(dim=1).mean()
    bias = 0.1 * torch.randn(shape.n_features)
    pre = (read @ encoder.T + bias).flatten()
    first, last = (shape.active * i // shape.n_layers for i in (layer, layer + 1))
    bias -= pre.sort(descending=True).values[last - first - 1 : last - first + 1].mean()
    decoder = torch.randn(shape.n_features, shape.n_layers - layer, shape.d_model)
    for target in range(layer, shape.n_layers):
        size = cache[f"blocks.{target}.hook_mlp_out"][0, 1:].std()
        decoder[:, target - layer] *= 0.35 * size / (target + 1) ** 0.5
    decoder_bias = 0.02 * torch.randn(shape.d_model)
    return {"W_enc": encoder, "b_enc": bias, "W_dec": decoder, "b_dec": decoder_bias}


def fill(model: Any, folder: Path) -> None:
    """Give a model the weights in ``folder``."""
    weights = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data = weights[name].clone()


def read_shape(folder: Path) -> Shape:
    """The shape that ``make`` wrote."""
    return Shape(**json.loads((folder / "shape.json").read_text()))


def read_transcoder(folder: Path) -> list[dict[str, Tensor]]:
    """Every layer's weights, in memory rather than mapped: loading is not what is measured."""
    files = [folder / f"transcoder_{i}.safetensors" for i in range(read_shape(folder).n_layers)]
    return [{k: t.clone() for k, t in load_file(file).items()} for file in files]


class Measured:
    """``seconds``, and peak ``gigabytes`` of resident memory above the start, of a block."""

    def __enter__(self) -> Measured:
        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._start = time.perf_counter()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._over.set()
        self._watcher.join()
        self._peak = max(self._peak, self._process.memory_info().rss)
        self.gigabytes = (self._peak - self._before) / 1e9


def matmul_speed(size: int = MATMUL, tries: int = 3) -> float:
    """FLOP per second of a square fp32 matrix product, median of ``tries``."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = left @ right
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def count_flops(call: Callable[[], object]) -> int:
    """FLOP of the matrix products in ``call``. PyTorch's counter lacks the in-place ones."""
    from torch.utils.flop_counter import FlopCounterMode

    def addmm(_into: Any, left: Any, right: Any, **_: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    known = {torch.ops.aten.addmm_: addmm}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        call()
    return counter.get_total_flops()


def text(value: Any) -> str:
    """A number, or several, with four significant digits."""
    if isinstance(value, (list, tuple)):
        return ", ".join(text(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(title: str, figures: dict[str, Any]) -> None:
    """Print a table of names and numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in figures.items():
        table.add_row(name, text(value))
    Console().print(table)
