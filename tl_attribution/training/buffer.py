"""The activation buffer: shuffled activations in bounded memory, reproducible after a restart.

The buffer works in rounds. A round reads rows until each lane holds its share of ``capacity``
tokens, shuffles the tokens of each lane, and serves them as batches. Its rows, their order and the
tokens left out follow from the rows' lengths, the seed and the round's first row alone, so the
state is two integers, and no activation is ever saved.

Row ``i`` of a round belongs to lane ``i % lanes``, and a batch is an equal part of every lane. A
process may serve only some of the lanes: it runs the model on their rows alone and serves their
part of each batch. The model sees the rows of one lane at a time, so that a part is bit for bit the
same however the lanes are divided.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import MlpPairs
from tl_attribution.training.activation_reader import ActivationReader
from tl_attribution.training.contexts import Contexts, ContextSource
from tl_attribution.training.seeds import generator

MAX_UNUSABLE_ROWS = 10_000
"""Rows that are read before a lane without a usable token is an error."""


class Batch(NamedTuple):
    """What features read and what they should write, for a batch of tokens."""

    inputs: Float[Tensor, "layer token d_model"]
    outputs: Float[Tensor, "layer token d_model"]


class _Round(NamedTuple):
    """The rows of one round, row ``i`` belonging to lane ``i % lanes``."""

    start: int
    rows: Contexts
    usable: Int[Tensor, " row"]


class Buffer:
    """Serves batches of shuffled activations, as the module's docstring describes.

    ``read`` runs the model. ``capacity`` and ``batch_size`` count tokens over all processes,
    ``prefix`` the leading positions of a row that are left out. ``lane_range``: the lanes that this
    process serves, by default all. ``rows_at_once``: rows per forward pass. ``device`` and
    ``dtype`` of the stored activations are by default those that ``read`` returns.

    Stores at most ``capacity`` × 2 × layers × d_model numbers, divided by the processes, besides
    one forward pass and the rows' token ids. Raises InputError for sizes that do not fit together.
    """

    def __init__(
        self,
        read: ActivationReader,
        rows: ContextSource,
        *,
        capacity: int,
        batch_size: int,
        prefix: int,
        seed: int,
        lanes: int = 8,
        lane_range: range | None = None,
        rows_at_once: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.lane_range = range(lanes) if lane_range is None else lane_range
        _check(capacity, batch_size, lanes, self.lane_range, rows_at_once)
        self._read, self._source = read, rows
        self._prefix, self._seed, self._lanes = prefix, seed, lanes
        self._rows_at_once, self._device, self._dtype = rows_at_once, device, dtype
        self.batches = capacity // batch_size
        """Batches per round."""
        self._lane_tokens = batch_size // lanes
        """Tokens of one lane in a batch."""
        self._row, self._served = 0, 0
        self._round: _Round | None = None
        self._stored: tuple[Tensor, Tensor] | None = None

    @property
    def state(self) -> dict[str, int]:
        """The first row of the current round, and the number of its batches that were served."""
        return {"row": self._row, "served": self._served}

    def load_state(self, state: dict[str, int]) -> None:
        """Restore a state of a buffer with the same arguments; the round's rows are read again
        unless they are still stored. Raises InputError for a state that this buffer cannot have."""
        row, served = state["row"], state["served"]
        if row < 0 or row % self._lanes or not 0 <= served < self.batches:
            raise InputError(
                f"row {row} with {served} batches served is not a state of a buffer of "
                f"{self._lanes} lanes and {self.batches} batches per round; resume with the "
                "capacity, batch_size and lanes that the state was saved with"
            )
        self._row, self._served = row, served

    @torch.no_grad()
    def next(self) -> Batch:
        """This process's part of the next batch, each layer's tokens in order of lane. A view of
        the buffer, valid until the next call. Raises InputError when a stream has ended."""
        if self._round is None or self._round.start != self._row:
            self._round = None  # an interrupted fill must not look complete
            plan = self._plan()
            self._fill(plan)
            self._round = plan
        assert self._stored is not None
        batch = Batch(*(stored[self._served] for stored in self._stored))
        self._served += 1
        if self._served == self.batches:
            self._row += len(self._round.usable)
            self._served = 0
        return batch

    def _plan(self) -> _Round:
        """The smallest number of rows that gives every lane its share."""
        share, parts = self.batches * self._lane_tokens, []
        usable = torch.zeros(self._lanes).long()
        count, groups = 0, 1
        while groups:
            rows = self._source.rows(self._row + count, groups * self._lanes)
            longest = rows.ids.shape[1] - self._prefix
            if longest < 1:
                raise InputError(
                    f"a prefix of {self._prefix} leaves no tokens of rows of {rows.ids.shape[1]}; "
                    "give a larger context"
                )
            parts.append(rows)
            count += len(rows.lengths)
            usable += self._usable(rows.lengths).view(groups, self._lanes).sum(0)
            if count >= MAX_UNUSABLE_ROWS and not usable.all():
                raise InputError(
                    f"{count} rows do not give each of {self._lanes} lanes one token after the "
                    f"prefix of {self._prefix}; give longer texts, or join them with concat=True"
                )
            groups = math.ceil(max(0, share - int(usable.min())) / longest)
        joined = Contexts(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return _Round(self._row, joined, self._usable(joined.lengths))

    def _usable(self, lengths: Tensor) -> Tensor:
        return (lengths - self._prefix).clamp(min=0)

    def _fill(self, plan: _Round) -> None:
        """Run the model on the rows of this process's lanes, one lane after the other."""
        for index, lane in enumerate(self.lane_range):
            ids, lengths = (t[lane :: self._lanes] for t in plan.rows)
            usable = plan.usable[lane :: self._lanes]
            slots, first = self._slots(plan.start, lane, int(usable.sum())), 0
            for row in range(0, len(ids), self._rows_at_once):
                part = slice(row, row + self._rows_at_once)
                end = first + int(usable[part].sum())
                self._store(Contexts(ids[part], lengths[part]), slots[first:end], index)
                first = end

    def _slots(self, start: int, lane: int, usable: int) -> Int[Tensor, " token"]:
        """The index of each usable token among the lane's shuffled tokens; -1 if it is left out."""
        order = torch.randperm(usable, generator=generator(self._seed, start, lane))
        slots = torch.full((usable,), -1)
        slots[order[: self.batches * self._lane_tokens]] = torch.arange(
            self.batches * self._lane_tokens
        )
        return slots

    def _store(self, rows: Contexts, slots: Int[Tensor, " token"], index: int) -> None:
        """Store the usable tokens of some rows in slots of this process's ``index``-th lane."""
        kept = slots[slots >= 0]
        if not len(kept):
            return
        longest = int(rows.lengths.max())
        pairs = self._read(Contexts(rows.ids[:, :longest], rows.lengths))
        position = torch.arange(longest)
        usable = (position >= self._prefix) & (position < rows.lengths[:, None])
        row, position = usable.nonzero()[slots >= 0].to(pairs.inputs.device).unbind(1)
        batch, token = (
            kept // self._lane_tokens,
            index * self._lane_tokens + kept % self._lane_tokens,
        )
        for stored, values in zip(self._storage(pairs), pairs, strict=True):
            slot = (batch.to(stored.device), slice(None), token.to(stored.device))
            stored[slot] = values[row, position].to(stored)

    def _storage(self, pairs: MlpPairs) -> tuple[Tensor, Tensor]:
        """Inputs and outputs as a tensor [batch, layer, token, d_model] each, allocated once."""
        if self._stored is None:
            layers, d_model = pairs.inputs.shape[2:]
            shape = (self.batches, layers, self._lane_tokens * len(self.lane_range), d_model)
            device = pairs.inputs.device if self._device is None else self._device
            dtype = pairs.inputs.dtype if self._dtype is None else self._dtype
            inputs, outputs = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
            self._stored = (inputs, outputs)
        return self._stored


def _check(
    capacity: int, batch_size: int, lanes: int, lane_range: range, rows_at_once: int
) -> None:
    if lanes < 1 or batch_size < 1 or batch_size % lanes:
        raise InputError(
            f"a batch of {batch_size} tokens cannot be divided into {lanes} equal lanes"
        )
    if capacity < batch_size:
        raise InputError(f"a buffer of {capacity} tokens is less than one batch of {batch_size}")
    inside = lane_range.start >= 0 and lane_range.stop <= lanes
    if not len(lane_range) or lane_range.step != 1 or not inside:
        raise InputError(
            f"lane_range must be one or more consecutive lanes of {lanes}, got {lane_range}"
        )
    if rows_at_once < 1:
        raise InputError(f"rows_at_once must be at least 1, got {rows_at_once}")
