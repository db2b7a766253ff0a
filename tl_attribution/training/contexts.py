"""Rows of token ids by number: of an indexed dataset in a new order every epoch, or of a stream."""

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
"""Tokens of a stream that are kept, so that what was looked at first can be read from the start."""


class Contexts(NamedTuple):
    """Some contexts. Ids are padded on the right with 0 to the length of a whole context."""

    ids: Int[Tensor, "row position"]
    lengths: Int[Tensor, " row"]


@runtime_checkable
class ContextSource(Protocol):
    """Rows, numbered from 0 for ever, or until a stream ends. All are as wide as one context."""

    n_rows: int | None
    """Rows of one epoch; None for a stream."""

    def rows(self, start: int, count: int) -> Contexts:
        """``count`` rows from row ``start`` on. Raises InputError where a stream has ended, or is
        asked to go back."""
        ...


class IndexedContexts:
    """Rows of a dataset that can be read in any order: each epoch is a permutation of its own."""

    def __init__(self, dataset: Any, column: str, *, context: int, seed: int) -> None:
        self.n_rows: int | None = len(dataset)
        self._length = len(dataset)
        self._dataset, self._column = dataset, column
        self._context, self._seed = context, seed
        self._orders: dict[int, Tensor] = {}

    def rows(self, start: int, count: int) -> Contexts:
        """Row ``n`` is number ``n % n_rows`` in the order of epoch ``n // n_rows``."""
        places = [divmod(n, self._length) for n in range(start, start + count)]
        indices = [int(self._order(epoch)[place]) for epoch, place in places]
        return padded(self._dataset[indices][self._column], self._context)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            made = torch.randperm(self._length, generator=generator(self._seed, epoch))
            self._orders[epoch] = made
        return self._orders[epoch]


class StreamedContexts:
    """Rows of an iterator, read onwards; the last :data:`REMEMBERED` tokens can be had again."""

    n_rows: int | None = None

    def __init__(self, rows: Iterator[list[int]], *, context: int) -> None:
        self._rows, self._context, self._read = rows, context, 0
        self._last: deque[list[int]] = deque(maxlen=max(1, REMEMBERED // context))

    def rows(self, start: int, count: int) -> Contexts:
        """Skips what lies before ``start``; it is still tokenised on the way."""
        first = self._read - len(self._last)
        if start < first:
            raise InputError(
                f"a stream cannot go back to row {start} from row {self._read}; open it anew, or "
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
            "were asked for; give a longer one, ask for fewer tokens, or give a dataset that can "
            "be indexed and so be read again"
        )


def padded(rows: Sequence[Sequence[int]], context: int) -> Contexts:
    """Rows of at most ``context`` ids as tensors."""
    ids = torch.zeros(len(rows), context, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return Contexts(ids, torch.tensor([len(row) for row in rows], dtype=torch.long))
