"""Sources of contexts: rows of token ids of a dataset, reshuffled every epoch, or of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.training.seeds import generator

REMEMBERED = 1 << 20
"""Tokens of a stream that are kept, so that a reader can go back to the first rows."""


class Contexts(NamedTuple):
    """Contexts as rows of token ids, padded on the right with 0 to the context size."""

    ids: Int[Tensor, "row position"]
    lengths: Int[Tensor, " row"]


@runtime_checkable
class ContextSource(Protocol):
    """Numbered rows of token ids, endless or until a stream ends, all as wide as one context."""

    n_rows: int | None
    """Rows per epoch; None for a stream."""

    def rows(self, start: int, count: int) -> Contexts:
        """``count`` rows from row ``start`` on. Raises InputError if a stream has ended or cannot
        go back to ``start``."""
        ...


class IndexedContexts:
    """Rows of a dataset that can be indexed, in a new random order every epoch."""

    def __init__(self, dataset: Any, column: str, *, context: int, seed: int) -> None:
        self.n_rows: int | None = len(dataset)
        self._length = len(dataset)
        self._dataset, self._column = dataset, column
        self._context, self._seed = context, seed
        self._orders: dict[int, Tensor] = {}

    def rows(self, start: int, count: int) -> Contexts:
        """Row ``n`` is the row ``n % n_rows`` in the order of epoch ``n // n_rows``."""
        numbers = [divmod(n, self._length) for n in range(start, start + count)]
        indices = [int(self._order(epoch)[number]) for epoch, number in numbers]
        return padded(self._dataset[indices][self._column], self._context)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            rng = generator(self._seed, epoch)
            self._orders[epoch] = torch.randperm(self._length, generator=rng)
        return self._orders[epoch]


class StreamedContexts:
    """Rows of an iterator, read forwards; the last :data:`REMEMBERED` tokens can be read again."""

    n_rows: int | None = None

    def __init__(self, rows: Iterator[list[int]], *, context: int) -> None:
        self._rows, self._context, self._read = rows, context, 0
        self._last: deque[list[int]] = deque(maxlen=max(1, REMEMBERED // context))

    def rows(self, start: int, count: int) -> Contexts:
        """Rows before ``start`` are tokenized and skipped."""
        first = self._read - len(self._last)
        if start < first:
            raise InputError(
                f"a stream cannot go back to row {start} from row {self._read}; open it again, or "
                "give a dataset that can be indexed"
            )
        kept = list(islice(self._last, start - first, start - first + count))
        while self._read < start + count:
            row = self._next()
            if self._read > start:
                kept.append(row)
        return padded(kept, self._context)

    def _next(self) -> list[int]:
        for row in self._rows:
            self._read += 1
            self._last.append(row)
            return row
        raise InputError(
            f"the stream ended after {self._read} rows of at most {self._context} tokens, and more "
            "are needed; give a longer stream, train on fewer tokens, or give a dataset that can "
            "be indexed and so be repeated"
        )


def padded(rows: Sequence[Sequence[int]], context: int) -> Contexts:
    """Rows of at most ``context`` ids as padded tensors."""
    ids = torch.zeros(len(rows), context, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return Contexts(ids, torch.tensor([len(row) for row in rows], dtype=torch.long))
