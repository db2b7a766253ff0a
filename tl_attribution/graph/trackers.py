"""Graphs kept by services outside: plugins offer to log one to a run, and to bring one back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tl_attribution import plugin_loading
from tl_attribution.errors import InputError, nearest
from tl_attribution.graph.graph import Graph


class GraphTracker(NamedTuple):
    """What a plugin offers."""

    check: Callable[[str], object]
    """Raises InputError for text that names no place where a run can be opened."""
    log: Callable[[Graph, Any], str | None]
    """Takes a graph and an open run, or text that names where to open one for this graph alone;
    returns the address under which ``load`` finds the graph, None where nothing is kept."""
    load: Callable[[str], Graph]


_OFFERED: dict[str, GraphTracker] = {}


def register_graph_store(name: str, store: GraphTracker) -> None:
    """Offer a store under the name of its host module. Registering again replaces."""
    _OFFERED[name] = store


def log_graph(graph: Graph, run: Any) -> str | None:
    """Log a graph to an open run of wandb, or to one of its own in ``"wandb:project"`` or
    ``"wandb:entity/project"``: the page, nodes and edges as tables, the scores and the residual in
    the summary, and the graph's file as an artifact.

    Returns what :func:`tl_attribution.load_graph` takes once it is uploaded, None if the run keeps
    nothing. Raises InputError for a run that is finished or of no known service, NotFoundError,
    with the command that installs it, if the service's library is not there.
    """
    if isinstance(run, str):
        name, target = check(run)
    else:
        name, target = type(run).__module__.partition(".")[0], run
        _known(name, f"a {type(run).__name__}")
    address = _OFFERED[name].log(graph, target)
    return None if address is None else f"{name}:{address}"


def check(run: str) -> tuple[str, str]:
    """The store's name and the place of text such as ``"wandb:my-project"``, before the work that
    makes a graph. Raises as :func:`log_graph` does."""
    name, _, where = run.partition(":")
    plugin_loading.import_host(name)
    _known(name, repr(run))
    _OFFERED[name].check(where)
    return name, where


def _known(name: str, given: str) -> None:
    if name not in _OFFERED:
        raise InputError(
            f"log_graph takes a run of wandb, or text as in 'wandb:my-project', not {given}: "
            f"{nearest(name, {'wandb', *_OFFERED})}"
        )


def load(source: str) -> Graph | None:
    """The graph at ``name:address``; None if no store has that name. Raises what the store raises,
    and NotFoundError if its library is not installed."""
    name, colon, address = source.partition(":")
    if not colon:
        return None
    plugin_loading.import_host(name)
    return _OFFERED[name].load(address) if name in _OFFERED else None
