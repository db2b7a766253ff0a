"""Errors. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TlAttributionError(Exception):
    """Base class of the errors that this package raises on purpose."""


class InputError(TlAttributionError, ValueError):
    """An invalid argument: a prompt, a target, a threshold, a feature."""


class UnsupportedModelError(TlAttributionError, TypeError):
    """A model that no adapter supports; the message names what is missing."""


class MismatchError(TlAttributionError, ValueError):
    """A dictionary and a model (or two files) that do not belong together."""


class FormatError(TlAttributionError, ValueError):
    """A file that is truncated, corrupt, of another format, or able to run code."""


class NotFoundError(TlAttributionError, LookupError):
    """A name or path that does not exist; the message suggests the nearest."""


class HubError(TlAttributionError, ConnectionError):
    """A request that the Hub refused or failed, or content other than expected."""


class ProofError(TlAttributionError, RuntimeError):
    """A frozen model that does not reproduce the host's activations: its graph would be wrong."""


class TrainingError(TlAttributionError, RuntimeError):
    """A training run that cannot continue; the message says what was kept."""


class TooLargeError(TlAttributionError, MemoryError):
    """A graph that does not fit in memory; the message says how to make it smaller."""


MAX_NAMES = 12
"""Maximum number of known names in a message."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest known names close to ``name``, and list the known names up to a maximum.

    >>> nearest("neuron", ["neurons", "atlas"])
    "did you mean 'neurons'? Known: atlas, neurons"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{hint}Known: {', '.join(names[:MAX_NAMES]) if names else 'none'}{more}"
