"""Experiment trackers: plugins register one that logs graphs to its runs and loads them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tl_attribution import plugin_loading
from tl_attribution.errors import InputError, nearest
from tl_attribution.graph.graph import Graph
from tl_attribution.registry import Registry


class GraphTracker(NamedTuple):
    """The functions of a tracker that a plugin registers."""

    check: Callable[[str], object]
    """Raises InputError for text that does not name a place where a run can be opened."""
    log: Callable[[Graph, Any], str | None]
    """Takes a graph and an open run, or text that names where to open one for this graph alone;
    returns the address under which ``load`` finds the graph, None where nothing is kept."""
    load: Callable[[str], Graph]


GRAPH_TRACKERS: Registry[GraphTracker] = Registry("graph tracker")
"""Trackers by the name of their library's module, which selects one."""


def log_graph(graph: Graph, run: Any) -> str | None:
    """Log a graph to an open run of wandb, or to a new one in ``"wandb:project"`` or
    ``"wandb:entity/project"``: the page, nodes and edges as tables, the scores and the residual in
    the summary, and the graph's file as an artifact.

    Returns what :func:`tl_attribution.load_graph` takes once it is uploaded, None if the run keeps
    nothing. Raises InputError for a run that is finished or of an unknown tracker, NotFoundError,
    with the command that installs it, if the tracker's library is missing.
    """
    if isinstance(run, str):
        name, target = check_run(run)
    else:
        name, target = type(run).__module__.partition(".")[0], run
        _require_known(name, f"a {type(run).__name__}")
    address = GRAPH_TRACKERS[name].log(graph, target)
    return None if address is None else f"{name}:{address}"


def check_run(run: str) -> tuple[str, str]:
    """Return the tracker's name and the project of text such as ``"wandb:my-project"``, before the
    work of tracing a graph. Raises as :func:`log_graph` does."""
    name, _, project = run.partition(":")
    plugin_loading.import_host(name)
    _require_known(name, repr(run))
    GRAPH_TRACKERS[name].check(project)
    return name, project


def _require_known(name: str, run: str) -> None:
    if name not in GRAPH_TRACKERS:
        raise InputError(
            f"expected a run of wandb, or text as in 'wandb:my-project', got {run}: "
            f"{nearest(name, ['wandb', *map(str, GRAPH_TRACKERS)])}"
        )


def load_tracked(source: str) -> Graph | None:
    """Load the graph at ``name:address``; None if no tracker has that name. Raises what the tracker
    raises, and NotFoundError if its library is not installed."""
    name, colon, address = source.partition(":")
    if not colon:
        return None
    plugin_loading.import_host(name)
    return GRAPH_TRACKERS[name].load(address) if name in GRAPH_TRACKERS else None
