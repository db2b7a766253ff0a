"""Activations in random order, in bounded memory, the same again after a restart.

The buffer works in rounds. A round reads rows until each lane holds its share of ``capacity``
tokens, shuffles every lane's tokens, and serves them as batches. Which rows, which order and which
tokens are left out follow from the rows' lengths, the seed and the round's first row alone, so two
integers are the whole state and no activation is ever stored.

Row ``i`` of a round belongs to lane ``i % lanes``, and a batch is an equal part of every lane. A
process may own some of the lanes: it runs the model on their rows only and serves their part of
each batch. The model sees one lane's rows at a time, so that a part is bit for bit the same however
the lanes are divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import MlpPairs
from tl_attribution.training.contexts import Contexts, ContextSource
from tl_attribution.training.seeds import generator

UNUSABLE = 10_000
"""Rows that are read before giving up on a lane that has no usable token yet."""


class Batch(NamedTuple):
    """What features read and what they should write at some tokens."""

    inputs: Float[Tensor, "layer token d_model"]
    outputs: Float[Tensor, "layer token d_model"]


class _Round(NamedTuple):
    """The rows of one round, row ``i`` belonging to lane ``i % lanes``."""

    start: int
    rows: Contexts
    usable: Int[Tensor, " row"]


class Buffer:
    """Serves batches of activations; see the module's own words for how.

    ``read`` runs the model. ``capacity`` and ``batch`` count tokens over all processes, ``prefix``
    the leading positions of a row that are left out. ``lane_range``: the lanes this process owns,
    all of them by default. ``rows_at_once``: rows in one forward pass. ``device`` and ``dtype``:
    where and as what activations are kept, by default as ``read`` gives them.

    At most ``capacity`` × 2 × layers × d_model numbers are held, divided by the processes, besides
    one forward pass and the rows' token ids. Raises InputError for sizes that do not fit together.
    """

    def __init__(
        self,
        read: Callable[[Contexts], MlpPairs],
        rows: ContextSource,
        *,
        capacity: int,
        batch: int,
        prefix: int,
        seed: int,
        lanes: int = 8,
        lane_range: range | None = None,
        rows_at_once: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.lane_range = range(lanes) if lane_range is None else lane_range
        _check(capacity, batch, lanes, self.lane_range, rows_at_once)
        self._read, self._source = read, rows
        self._prefix, self._seed, self._lanes = prefix, seed, lanes
        self._at_once, self._device, self._dtype = rows_at_once, device, dtype
        self.batches = capacity // batch
        """Batches of one round."""
        self._chunk = batch // lanes
        self._row, self._served = 0, 0
        self._round: _Round | None = None
        self._stored: tuple[Tensor, Tensor] | None = None

    @property
    def state(self) -> dict[str, int]:
        """The first row of the round in work, and how many of its batches were served."""
        return {"row": self._row, "served": self._served}

    def load_state(self, state: dict[str, int]) -> None:
        """Go on from a state of a buffer with the same arguments; the round's rows are read again
        unless they are still held. Raises InputError for a state that cannot be."""
        row, served = state["row"], state["served"]
        if row < 0 or row % self._lanes or not 0 <= served < self.batches:
            raise InputError(
                f"row {row} and {served} batches served is no state of a buffer of {self._lanes} "
                f"lanes and {self.batches} batches a round; resume with the capacity, batch and "
                "lanes that the state was saved with"
            )
        self._row, self._served = row, served

    @torch.no_grad()
    def next(self) -> Batch:
        """This process's part of the next batch, each layer's tokens in order of lane. Views of the
        buffer: the next call may write over them. Raises InputError when a stream has ended."""
        if self._round is None or self._round.start != self._row:
            self._round = None  # an interrupted fill leaves nothing that looks whole
            plan = self._plan()
            self._fill(plan)
            self._round = plan
        assert self._stored is not None
        made = Batch(*(stored[self._served] for stored in self._stored))
        self._served += 1
        if self._served == self.batches:
            self._row += len(self._round.usable)
            self._served = 0
        return made

    def _plan(self) -> _Round:
        """The fewest rows that give every lane its share."""
        need, parts, held = self.batches * self._chunk, [], torch.zeros(self._lanes).long()
        count, groups = 0, 1
        while groups:
            rows = self._source.rows(self._row + count, groups * self._lanes)
            most = rows.ids.shape[1] - self._prefix
            if most < 1:
                raise InputError(
                    f"a prefix of {self._prefix} leaves nothing of rows of {rows.ids.shape[1]}"
                )
            parts.append(rows)
            count += len(rows.lengths)
            held += self._usable(rows.lengths).view(groups, self._lanes).sum(0)
            if count >= UNUSABLE and not held.all():
                raise InputError(
                    f"{count} rows do not give each of {self._lanes} lanes one token after the "
                    f"prefix of {self._prefix}; give longer texts, or join them with concat=True"
                )
            groups = math.ceil(max(0, need - int(held.min())) / most)
        joined = Contexts(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return _Round(self._row, joined, self._usable(joined.lengths))

    def _usable(self, lengths: Tensor) -> Tensor:
        return (lengths - self._prefix).clamp(min=0)

    def _fill(self, plan: _Round) -> None:
        """Run the model on the rows of this process's lanes, each lane by itself."""
        for index, lane in enumerate(self.lane_range):
            own = slice(lane, None, self._lanes)
            ids, lengths, usable = plan.rows.ids[own], plan.rows.lengths[own], plan.usable[own]
            slots, at = self._slots(plan.start, lane, int(usable.sum())), 0
            for first in range(0, len(ids), self._at_once):
                part = slice(first, first + self._at_once)
                end = at + int(usable[part].sum())
                self._store(Contexts(ids[part], lengths[part]), slots[at:end], index)
                at = end

    def _slots(self, start: int, lane: int, usable: int) -> Int[Tensor, " token"]:
        """Where in the lane's shuffled tokens each of its usable tokens goes; -1 for nowhere."""
        order = torch.randperm(usable, generator=generator(self._seed, start, lane))
        slots = torch.full((usable,), -1)
        slots[order[: self.batches * self._chunk]] = torch.arange(self.batches * self._chunk)
        return slots

    def _store(self, rows: Contexts, slots: Int[Tensor, " token"], index: int) -> None:
        """Put the usable tokens of some rows, in order, into slots of the ``index``-th own lane."""
        kept = slots[slots >= 0]
        if not len(kept):
            return
        longest = int(rows.lengths.max())
        pairs = self._read(Contexts(rows.ids[:, :longest], rows.lengths))
        position = torch.arange(longest)
        usable = (position >= self._prefix) & (position < rows.lengths[:, None])
        row, position = usable.nonzero()[slots >= 0].to(pairs.inputs.device).unbind(1)
        batch, token = kept // self._chunk, index * self._chunk + kept % self._chunk
        for stored, values in zip(self._storage(pairs), pairs, strict=True):
            where = (batch.to(stored.device), slice(None), token.to(stored.device))
            stored[where] = values[row, position].to(stored)

    def _storage(self, pairs: MlpPairs) -> tuple[Tensor, Tensor]:
        """One tensor [batch, layer, token, d_model] a side, made once: a batch is a slice."""
        if self._stored is None:
            layers, d_model = pairs.inputs.shape[2:]
            shape = (self.batches, layers, self._chunk * len(self.lane_range), d_model)
            device = pairs.inputs.device if self._device is None else self._device
            dtype = pairs.inputs.dtype if self._dtype is None else self._dtype
            inputs, outputs = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
            self._stored = (inputs, outputs)
        return self._stored


def _check(capacity: int, batch: int, lanes: int, own: range, rows_at_once: int) -> None:
    if lanes < 1 or batch < 1 or batch % lanes:
        raise InputError(f"a batch of {batch} tokens cannot be divided into {lanes} equal lanes")
    if capacity < batch:
        raise InputError(f"a buffer of {capacity} tokens holds less than one batch of {batch}")
    if not len(own) or own.step != 1 or own.start < 0 or own.stop > lanes:
        raise InputError(f"a process owns one or more of the {lanes} lanes in a row, not {own}")
    if rows_at_once < 1:
        raise InputError(f"rows_at_once must be at least 1, got {rows_at_once}")
