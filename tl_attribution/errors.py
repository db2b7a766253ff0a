"""One family of errors. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TlAttributionError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(TlAttributionError, ValueError):
    """An argument that cannot be used: a prompt, a target, a threshold, a feature."""


class UnsupportedModelError(TlAttributionError, TypeError):
    """A model that no adapter can serve; the message names what is missing."""


class MismatchError(TlAttributionError, ValueError):
    """A dictionary and a model (or two files) that do not belong together."""


class FormatError(TlAttributionError, ValueError):
    """A file that is truncated, corrupt, of another format, or able to run code."""


class NotFoundError(TlAttributionError, LookupError):
    """A name or path that leads nowhere; the message suggests the nearest."""


class HubError(TlAttributionError, ConnectionError):
    """The Hub refused, failed or could not be reached, or holds something else than expected."""


class ProofError(TlAttributionError, RuntimeError):
    """The frozen model does not give back the host's activations: no graph of it would be true."""


class TrainingError(TlAttributionError, RuntimeError):
    """A training run that cannot go on; the message says what was kept."""


class TooLargeError(TlAttributionError, MemoryError):
    """The asked graph does not fit in memory; the message says how to ask for less."""


MANY = 12
"""Known names that an error lists at most."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests known names close to ``name``, and lists them, if not too many.

    >>> nearest("neuron", ["neurons", "atlas"])
    "did you mean 'neurons'? Known: atlas, neurons"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"{hint}Known: {', '.join(names[:MANY]) if names else 'none'}{more}"
