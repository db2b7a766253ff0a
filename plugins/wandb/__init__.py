"""Weights & Biases: offers the callback ``wandb:project`` or ``wandb:entity/project``, which logs a
training run, and logs graphs and brings them back. :func:`install` runs when wandb is imported."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_attribution.graph.graph import Graph
    from tl_attribution.training.callbacks import Callback


def install(module: ModuleType) -> None:
    """Offer the callback and the graphs. Installing twice changes nothing."""
    from tl_attribution.extend import CALLBACKS, GRAPH_TRACKERS, GraphTracker

    CALLBACKS.register("wandb", make)
    GRAPH_TRACKERS.register("wandb", GraphTracker(check, log, load))


def make(where: str) -> Callback:
    """A callback that logs to ``project`` or ``entity/project``; empty: where wandb's own settings
    say. Raises InputError for anything else."""
    from tl_attribution.plugins.wandb.callback import WandbCallback

    return WandbCallback(where)


def check(where: str) -> None:
    """Raises InputError if ``where`` is neither ``project`` nor ``entity/project``."""
    from tl_attribution.plugins.wandb.runs import address

    address(where)


def log(graph: Graph, run: Any) -> str | None:
    """See :func:`tl_attribution.plugins.wandb.graphs.log`."""
    from tl_attribution.plugins.wandb import graphs

    return graphs.log(graph, run)


def load(address: str) -> Graph:
    """See :func:`tl_attribution.plugins.wandb.graphs.load`."""
    from tl_attribution.plugins.wandb import graphs

    return graphs.load(address)
