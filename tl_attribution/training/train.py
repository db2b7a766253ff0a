"""``train``: a dataset and a model in, a dictionary out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tl_attribution.devices import free_memory
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import InputError, TooLargeError
from tl_attribution.replacement.host import Host, host_for
from tl_attribution.replacement.prompts import compute_in_fp32
from tl_attribution.training import distributed
from tl_attribution.training.callbacks import Callback
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import Team
from tl_attribution.training.run import Run


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
    iterator of token batches [row, position]. ``out``: the run's folder, with its log, checkpoints
    and dictionary; None keeps nothing on disk. ``device`` is where the dictionary is trained; None:
    where the model is, or on a GPU if there is one. ``resume`` goes on from the last checkpoint,
    bit for bit on a CPU; ``overwrite`` starts anew. ``data_name`` stands for the dataset in
    ``run.json``; ``on_progress`` is told (tokens done, in all, what) after each record;
    ``evaluate`` is called with the dictionary at the end, in the first process, and callbacks are
    told what it returns.

    Returns the dictionary in raw model space. Raises InputError for a configuration, dataset or
    folder that cannot be used, UnsupportedModelError for a model without MLPs, NotFoundError for an
    unknown hook, TooLargeError if the shape does not fit in memory, and TrainingError for a run
    that cannot go on; what was kept is said.
    """
    config = config or TrainingConfig()
    host = host_for(compute_in_fp32(model))
    place = device or _accelerator(model)
    with distributed.joined(config.feature_shards, place) as team:
        _check(config, host, team)
        run = Run(model, host, dataset, config, team, Path(out) if out else None)
        run.open(resume, overwrite, data_name or _describe(dataset))
        run.watchers = list(callbacks) if team.first else []
        run.on_progress = on_progress if team.first else None
        run.evaluate = evaluate if team.first else None
        return run.go()


def _accelerator(model: Any) -> torch.device | None:
    """Where the model is, if that is not the CPU."""
    weight = next(iter(model.parameters()), None)
    return None if weight is None or weight.device.type == "cpu" else weight.device


def _describe(dataset: Any) -> str:
    if isinstance(dataset, (str, Path)):
        return str(dataset)
    return f"{type(dataset).__module__}.{type(dataset).__qualname__}"


def _check(config: TrainingConfig, host: Host, team: Team) -> None:
    host.read_site(config.feature_input_hook)
    host.write_site(config.feature_output_hook)
    lanes = team.lanes
    if config.batch % lanes:
        raise InputError(f"batch={config.batch} must be a multiple of {lanes}")
    if config.dtype == "bfloat16" and team.device.type == "cpu":
        raise InputError(
            "dtype='bfloat16' is for GPUs: on a CPU its products are far slower than float32's"
        )
    needed = config.memory(host, team.n_data * team.n_shards)
    free = free_memory(team.device)
    if needed > free:
        raise TooLargeError(
            f"{host.n_layers} layers × {config.n_features} features with a buffer of "
            f"{config.buffer} tokens need about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} "
            "GiB are free; ask for fewer features, a smaller buffer or window, or more "
            "feature_shards"
        )
