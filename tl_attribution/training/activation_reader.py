"""Activation readers: the host's own, or one registered by a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

from tl_attribution.hosts.protocols import MlpPairs, Trainable
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.registry import Registry
from tl_attribution.training.contexts import Contexts

ActivationReader = Callable[[Contexts], MlpPairs]
"""Contexts → the activations at the read and the write site of every layer. Values on padding are
undefined."""

ReaderFactory = Callable[[Any, Trainable, ReadSite, WriteSite], Union[ActivationReader, None]]  # noqa: UP007  # evaluated on Python 3.10
"""(model, host, read site, write site) → a reader, or None to decline."""

ACTIVATION_READERS: Registry[ReaderFactory] = Registry("activation reader")
"""Factories by name. The last registered is asked first; the first that accepts is used."""


def reader_for(model: Any, host: Trainable, read: ReadSite, write: WriteSite) -> ActivationReader:
    """The reader for a model and two sites: a plugin's if one accepts, otherwise the host's."""
    for factory in ACTIVATION_READERS.values():
        reader = factory(model, host, read, write)
        if reader is not None:
            return reader
    return lambda rows: host.read_mlps(rows.ids, read, write)
