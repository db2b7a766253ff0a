"""Plugin for Weights & Biases: a callback that logs training runs, ``wandb:project`` or
``wandb:entity/project``, and logging and loading of graphs. :func:`install` runs when wandb is
imported."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_attribution.graph.graph import Graph
    from tl_attribution.training.callbacks import Callback


def install(module: ModuleType) -> None:
    """Register the callback and the graph tracker. Idempotent."""
    from tl_attribution.extend import CALLBACKS, GRAPH_TRACKERS, GraphTracker

    CALLBACKS.register("wandb", make)
    GRAPH_TRACKERS.register("wandb", GraphTracker(check, log, load))


def make(address: str) -> Callback:
    """A callback that logs to ``project`` or ``entity/project``; empty: the default of wandb's
    settings. Raises InputError for another form."""
    from tl_attribution.plugins.wandb.callback import WandbCallback

    return WandbCallback(address)


def check(address: str) -> None:
    """Raise InputError unless ``address`` is ``project`` or ``entity/project``."""
    from tl_attribution.plugins.wandb.runs import parse_project

    parse_project(address)


def log(graph: Graph, run: Any) -> str | None:
    """See :func:`tl_attribution.plugins.wandb.graphs.log`."""
    from tl_attribution.plugins.wandb import graphs

    return graphs.log(graph, run)


def load(address: str) -> Graph:
    """See :func:`tl_attribution.plugins.wandb.graphs.load`."""
    from tl_attribution.plugins.wandb import graphs

    return graphs.load(address)
