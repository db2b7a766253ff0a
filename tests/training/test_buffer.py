"""The buffer serves every token once a round, the same for any number of processes, and resumes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import MlpPairs
from tl_attribution.training.buffer import Batch, Buffer
from tl_attribution.training.contexts import Contexts, padded

LAYERS, D_MODEL = 2, 3


class Numbered:
    """Row ``n`` holds the ids ``1000 n + position``, so that every token is known by its id."""

    n_rows = None

    def __init__(self, context: int, lengths: list[int]) -> None:
        self.context, self.lengths = context, lengths

    def rows(self, start: int, count: int) -> Contexts:
        numbers = range(start, start + count)
        lengths = [min(self.context, Random(n).choice(self.lengths)) for n in numbers]
        pairs = zip(numbers, lengths, strict=True)
        return padded([[1000 * n + p for p in range(length)] for n, length in pairs], self.context)


class Reader:
    """Inputs hold the id, outputs its negative; counts what it is asked to read."""

    def __init__(self) -> None:
        self.rows: Counter[int] = Counter()
        self.most = 0

    def __call__(self, rows: Contexts) -> MlpPairs:
        self.rows.update((rows.ids[:, 0] // 1000).tolist())
        self.most = max(self.most, rows.ids.numel())
        layer = torch.arange(LAYERS)[:, None] * 0.25
        inputs = rows.ids.double()[:, :, None, None] + layer + torch.zeros(D_MODEL)
        return MlpPairs(inputs, -inputs)


sizes = st.fixed_dictionaries(
    {
        "lanes": st.sampled_from([1, 2, 4, 6]),
        "chunk": st.integers(1, 5),
        "batches": st.integers(1, 6),
        "prefix": st.integers(0, 2),
        "seed": st.integers(0, 3),
        "context": st.integers(3, 9),
        "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=7).map(lambda x: [*x, 9]),
        "at_once": st.integers(1, 4),
    }
)


def make(size: dict, reader: Reader | None = None, lane_range: range | None = None) -> Buffer:
    batch = size["lanes"] * size["chunk"]
    return Buffer(
        reader or Reader(),
        Numbered(size["context"], size["lengths"]),
        capacity=batch * size["batches"] + batch - 1,
        batch_size=batch,
        prefix=size["prefix"],
        seed=size["seed"],
        lanes=size["lanes"],
        lane_range=lane_range,
        rows_at_once=size["at_once"],
    )


def copied(batch: Batch) -> Batch:
    return Batch(*(t.clone() for t in batch))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def ids(batch: Batch) -> list[int]:
    """The tokens of a batch; checks on the way that layers and sides are kept together."""
    layer = torch.arange(LAYERS)[:, None, None] * 0.25
    assert torch.equal(batch.inputs, -batch.outputs)
    assert batch.inputs.is_contiguous()
    assert (batch.inputs - layer == batch.inputs[:1, :, :1]).all()
    return batch.inputs[0, :, 0].long().tolist()


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_a_round_serves_usable_tokens_at_most_once(size: dict) -> None:
    buffer = make(size)
    source = Numbered(size["context"], size["lengths"])
    for _ in range(3):
        start = buffer.state["row"]
        served = [token for _ in range(size["batches"]) for token in ids(buffer.next())]
        rows = buffer.state["row"] - start
        lengths = source.rows(start, rows).lengths.tolist()
        usable = {
            1000 * (start + i) + p for i in range(rows) for p in range(size["prefix"], lengths[i])
        }
        assert rows % size["lanes"] == 0
        assert buffer.state["served"] == 0
        assert len(served) == len(set(served)) == size["batches"] * size["lanes"] * size["chunk"]
        assert set(served) <= usable


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_processes_together_serve_what_one_would(size: dict, data: st.DataObject) -> None:
    share = data.draw(st.sampled_from([n for n in (1, 2, 3) if size["lanes"] % n == 0]))
    parts = [range(i, i + share) for i in range(0, size["lanes"], share)]
    readers = [Reader() for _ in parts]
    buffers = [
        make(size, reader, lane_range) for reader, lane_range in zip(readers, parts, strict=True)
    ]
    whole = make(size)
    for _ in range(2 * size["batches"] + 1):
        served = [buffer.next() for buffer in buffers]
        expected = whole.next()
        for side in (0, 1):
            assert torch.equal(torch.cat([batch[side] for batch in served], 1), expected[side])
        assert {str(buffer.state) for buffer in buffers} == {str(whole.state)}
    for reader, lane_range in zip(readers, parts, strict=True):
        assert all(row % size["lanes"] in lane_range for row in reader.rows)


@given(sizes, st.integers(0, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_restart_goes_on_with_the_same_batches(size: dict, steps: int, same_one: bool) -> None:
    first = make(size)
    for _ in range(steps):
        first.next()
    state = first.state
    expected = [copied(first.next()) for _ in range(8)]
    second = first if same_one else make(size)
    second.load_state(state)
    assert second.state == state
    assert all(same(batch, second.next()) for batch in expected)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_memory_is_bounded_by_the_capacity(size: dict) -> None:
    reader = Reader()
    buffer = make(size, reader)
    for _ in range(2 * size["batches"]):
        buffer.next()
    assert buffer._stored is not None
    stored = sum(t.numel() for t in buffer._stored)
    batch = size["lanes"] * size["chunk"]
    assert stored <= batch * (size["batches"] + 1) * 2 * LAYERS * D_MODEL
    assert reader.most <= size["at_once"] * size["context"]
    assert max(reader.rows.values()) == 1


def test_order_depends_on_the_seed_and_the_round() -> None:
    size = {"lanes": 2, "chunk": 20, "batches": 1, "prefix": 0, "context": 9, "lengths": [9]}
    orders = []
    for seed in (0, 1):
        buffer = make({**size, "seed": seed, "at_once": 3})
        orders += [ids(buffer.next()), [i % 54000 for i in ids(buffer.next())]]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


def test_going_back_within_a_round_reads_nothing_again() -> None:
    reader = Reader()
    size = {"lanes": 2, "chunk": 2, "batches": 4, "prefix": 1, "seed": 0, "context": 5}
    buffer = make({**size, "lengths": [5], "at_once": 8}, reader)
    state = buffer.state
    first = [copied(buffer.next()) for _ in range(4)]
    buffer.load_state(state)
    assert all(same(batch, buffer.next()) for batch in first)
    assert max(reader.rows.values()) == 1


def test_an_interrupted_fill_is_done_again() -> None:
    class Fails(Reader):
        calls = 0

        def __call__(self, rows: Contexts) -> MlpPairs:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(rows)

    size = {"lanes": 2, "chunk": 2, "batches": 4, "prefix": 1, "seed": 0, "context": 5}
    size = {**size, "lengths": [5], "at_once": 1}
    buffer = make(size, Fails())
    with pytest.raises(KeyboardInterrupt):
        buffer.next()
    assert buffer.state == {"row": 0, "served": 0}
    assert same(buffer.next(), make(size).next())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 10}, "10 tokens cannot be divided into 4 equal lanes"),
        ({"capacity": 4}, "less than one batch of 8"),
        ({"lane_range": range(2, 6)}, "consecutive lanes of 4, got"),
        ({"lane_range": range(0)}, "consecutive lanes of 4, got"),
        ({"rows_at_once": 0}, "at least 1"),
        ({"prefix": 5}, "a prefix of 5 leaves no tokens of rows of 5"),
        ({"prefix": 3}, "rows do not give each of 4 lanes one token after the prefix of 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict, words: str) -> None:
    sizes = {"capacity": 16, "batch_size": 8, "prefix": 0, "seed": 0, "lanes": 4, **changed}
    with pytest.raises(InputError, match=words):
        Buffer(Reader(), Numbered(5, [2, 3, 1]), **sizes).next()


@pytest.mark.parametrize("state", [{"row": 3, "served": 0}, {"row": 4, "served": 2}])
def test_a_state_of_other_sizes_is_refused(state: dict[str, int]) -> None:
    buffer = Buffer(
        Reader(), Numbered(5, [5]), capacity=16, batch_size=8, prefix=0, seed=0, lanes=4
    )
    with pytest.raises(InputError, match="is not a state of a buffer"):
        buffer.load_state(state)
