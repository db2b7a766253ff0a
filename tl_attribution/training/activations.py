"""The activations to train on: a dataset's contexts, read from a model at two sites."""

from __future__ import annotations

from typing import Any

from tl_attribution.hosts.opening import ModelSites, trainable
from tl_attribution.hosts.prompt import resolve_prefix
from tl_attribution.training.activation_reader import reader_for
from tl_attribution.training.buffer import Buffer
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.datasets import open_contexts
from tl_attribution.training.distributed import ProcessGrid

TOKENS_AT_ONCE = 4096
"""Tokens per forward pass of the model."""


def open_buffer(
    model: Any, sites: ModelSites, dataset: Any, config: TrainingConfig, grid: ProcessGrid
) -> Buffer:
    """Open a dataset as a buffer of the model's activations at both sites.

    Reads the first context, so that a model or dataset that cannot be used is an error before
    anything is written. Raises UnsupportedModelError for a model without MLPs, and as
    :func:`~tl_attribution.training.datasets.open_contexts` does.
    """
    host = trainable(sites.host)
    context_size = config.context_for(host)
    read = reader_for(model, host, sites.read_site, sites.write_site)
    contexts = open_contexts(
        dataset,
        host,
        context=context_size,
        concat=config.concat,
        column=config.column,
        seed=config.seed,
    )
    first = contexts.rows(0, 1)
    read(first)
    lanes_per_copy = grid.lanes // grid.n_data
    first_lane = grid.data_rank * lanes_per_copy
    return Buffer(
        read,
        contexts,
        capacity=config.buffer_size,
        batch_size=config.batch_size,
        prefix=resolve_prefix(host, first.ids[0, : int(first.lengths[0])], None),
        seed=config.seed,
        lanes=grid.lanes,
        rows_at_once=max(1, TOKENS_AT_ONCE // context_size),
        lane_range=range(first_lane, first_lane + lanes_per_copy),
        device=grid.device,
    )
