"""Who runs the model on rows of tokens: the host itself, or a plugin that offers to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

from tl_attribution.hosts.protocols import Host, MlpPairs
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.training.contexts import Contexts

Read = Callable[[Contexts], MlpPairs]
"""Rows → what every MLP's features read and should write on them. Values on padding are undefined.
"""

ReaderFactory = Callable[[Any, Host, ReadSite, WriteSite], Union[Read, None]]  # noqa: UP007  # evaluated on Python 3.10
"""(model, its host, where features read, where they write) → a reader, or None to decline."""

_FACTORIES: list[ReaderFactory] = []


def register_reader(factory: ReaderFactory) -> None:
    """Offer to read activations. Registering again replaces; the last that accepts is used."""
    _FACTORIES[:] = [known for known in _FACTORIES if known is not factory]
    _FACTORIES.append(factory)


def reader_for(model: Any, host: Host, read: ReadSite, write: WriteSite) -> Read:
    """The reader for a model and two sites: a plugin's where one serves, else the host's own."""
    for factory in reversed(_FACTORIES):
        made = factory(model, host, read, write)
        if made is not None:
            return made
    return lambda rows: host.read_mlps(rows.ids, read, write)
