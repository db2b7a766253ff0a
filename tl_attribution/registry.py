"""Registries: where plugins and other packages add hosts, formats, trackers and the like.

Every registry has the same rule of precedence:

1. A key selects exactly one entry, and registering a key again replaces its entry.
2. For a class, the entry of the nearest class that it inherits from is selected.
3. Entries that decide for themselves whether they serve (formats, sources, readers, loaders) are
   tried with the last registered first; the first that accepts is used.
4. What the package comes with is tried last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

Key = str | type
"""A name, or a class that adapters are found for."""


class Registry(Mapping[Key, T]):
    """Entries by key: a mapping whose iteration starts with the last registered.

    ``title`` is what an entry is called in messages; ``defaults`` are what the package comes with,
    the first to be tried first.

    >>> colors = Registry[str]("color", {"sky": "blue", "grass": "green"})
    >>> colors.register("rose", "red")
    >>> list(colors)
    ['rose', 'sky', 'grass']
    """

    def __init__(self, title: str, defaults: Mapping[Key, T] | None = None) -> None:
        self.title = title
        self._entries: dict[Key, T] = dict(reversed(list((defaults or {}).items())))

    def register(self, key: Key, entry: T) -> None:
        """Add an entry, which takes precedence over all others; it replaces the one at ``key``."""
        self._entries.pop(key, None)
        self._entries[key] = entry

    def unregister(self, key: Key) -> None:
        """Remove the entry at ``key``. Raises KeyError if there is none."""
        del self._entries[key]

    def for_class(self, cls: type) -> T | None:
        """The entry of the nearest class that ``cls`` inherits from, or of ``cls`` itself."""
        return next((self[base] for base in cls.__mro__ if base in self), None)

    def __getitem__(self, key: Key) -> T:
        return self._entries[key]

    def __iter__(self) -> Iterator[Key]:
        return reversed(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        keys = (key.__name__ if isinstance(key, type) else repr(key) for key in self)
        return f"<{self.title} registry: {', '.join(keys) or 'empty'}>"
