"""``train``: train a dictionary for a model on a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tl_attribution.devices import free_memory
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import InputError, TooLargeError
from tl_attribution.hosts.opening import ModelSites, find_sites, open_host, trainable
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.training.activations import open_buffer
from tl_attribution.training.callbacks import Callback, Observers
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import ProcessGrid, process_grid
from tl_attribution.training.model import TrainingTranscoder
from tl_attribution.training.run_folder import RunFolder
from tl_attribution.training.trainer import Trainer


def train(
    model: Any,
    dataset: Any,
    config: TrainingConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    device: str | None = None,
    data_name: str | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    evaluate: Callable[[Transcoder], Any] | None = None,
) -> Transcoder:
    """Train a dictionary for ``model`` on ``dataset`` (methods paper, "Cross-layer transcoder
    training").

    ``dataset``: a ``datasets`` dataset, a folder, a .txt or .jsonl file, a list of texts, or an
    iterator of token batches [row, position]. ``out``: the run's folder, for its log, checkpoints
    and dictionary; None writes no files. ``device``: where the dictionary is trained; None takes
    the model's, or a GPU if there is one. ``resume`` continues from the last checkpoint, bit for
    bit on a CPU; ``overwrite`` starts again. ``data_name``: name of the dataset in ``run.json``.
    ``on_progress`` is called with (tokens trained on, total tokens, a summary) after each record;
    ``evaluate`` with the dictionary at the end, in the main process, and its result is passed to
    the callbacks.

    Returns the dictionary for raw activations. Raises InputError for a configuration, dataset or
    folder that cannot be used, UnsupportedModelError for a model without MLPs, NotFoundError for an
    unknown hook, TooLargeError if the run does not fit in memory, and TrainingError if the loss
    diverges or a checkpoint cannot be written; the message says which checkpoint is kept.
    """
    config = config or TrainingConfig()
    host = trainable(open_host(model))
    sites = find_sites(host, config.feature_input_hook, config.feature_output_hook)
    with process_grid(config.feature_shards, device or _accelerator(sites)) as grid:
        _check(config, host, grid)
        buffer = open_buffer(model, sites, dataset, config, grid)
        transcoder = TrainingTranscoder(config, host.n_layers, host.d_model, grid)
        folder = RunFolder(
            Path(out) if out else None,
            config,
            host,
            grid,
            data_name=data_name or _describe(dataset),
            resume=resume,
            overwrite=overwrite,
        )
        observers = Observers(callbacks, on_progress, evaluate)
        return Trainer(sites, buffer, transcoder, folder, observers).fit()


def _accelerator(sites: ModelSites) -> torch.device | None:
    """Where the model is, if that is not the CPU."""
    return None if sites.device.type == "cpu" else sites.device


def _describe(dataset: Any) -> str:
    if isinstance(dataset, (str, Path)):
        return str(dataset)
    return f"{type(dataset).__module__}.{type(dataset).__qualname__}"


def _check(config: TrainingConfig, host: Traceable, grid: ProcessGrid) -> None:
    if config.batch_size % grid.lanes:
        raise InputError(
            f"batch_size must be a multiple of {grid.lanes} with {grid.n_data} data-parallel "
            f"processes, got {config.batch_size}"
        )
    if config.dtype == "bfloat16" and grid.device.type == "cpu":
        raise InputError(
            "dtype='bfloat16' needs a GPU: on a CPU its products are far slower than those of "
            "float32; choose dtype='float32'"
        )
    required = config.memory(host, grid.n_data * grid.n_shards)
    free = free_memory(grid.device)
    if required > free:
        raise TooLargeError(
            f"{host.n_layers} layers × {config.n_features} features with a buffer of "
            f"{config.buffer_size} tokens need about {required / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; choose fewer features, a smaller buffer_size or "
            "window, or more feature_shards"
        )
