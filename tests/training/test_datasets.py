"""Every form of a dataset becomes the same rows; what cannot be used is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import HOSTS, VOCAB, tiny
from tl_attribution.errors import FormatError, InputError, NotFoundError
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.registry import host_for
from tl_attribution.training import packing
from tl_attribution.training.contexts import REMEMBERED, Contexts, StreamedContexts
from tl_attribution.training.datasets import open_contexts
from tl_attribution.training.packing import Packer

CONTEXT = 6
TEXTS = [" w1 w2 w3", " w4", " w5 w6 w7 w8 w9 w10 w11 w12", "", " w13 w14 w15"]
PACKED = [[1, 5, 6, 7, 1, 8], [1, 9, 10, 11, 12, 13], [1, 14, 15, 16, 1, 17]]
"""`` w1`` is 5; each row begins with BOS, 1, which also stands between texts."""
SINGLE = [[1, 5, 6, 7], [1, 8], [1, 9, 10, 11, 12, 13], [1, 17, 18, 19]]

pytestmark = pytest.mark.hosts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def host() -> Host:
    return host_for(tiny("gpt2", HOSTS[0]))


def lists(rows: Contexts) -> list[list[int]]:
    assert not rows.ids[torch.arange(rows.ids.shape[1]) >= rows.lengths[:, None]].any()
    return [ids[:n].tolist() for ids, n in zip(rows.ids, rows.lengths, strict=True)]


def opened(dataset: Any, host: Host, **options: Any) -> list[list[int]]:
    """One epoch, in a fixed order; or the first three rows of a stream."""
    source = open_contexts(dataset, host, context=CONTEXT, **options)
    rows = source.rows(0, source.n_rows or 3)
    assert rows.ids.shape == (len(rows.lengths), CONTEXT)
    return sorted(lists(rows))


def jsonl(path: Path, name: str = "text") -> Path:
    path.write_text("".join(json.dumps({name: text, "id": 1}) + "\n" for text in TEXTS))
    return path


def parquet(path: Path) -> Path:
    datasets.Dataset.from_dict({"content": TEXTS}).to_parquet(path)
    return path


def saved(path: Path) -> Path:
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    for i, text in enumerate(TEXTS):
        (path / f"{i}.txt").write_text(text)
    return path


SPLITS = {"test": datasets.Dataset.from_dict({"text": [" w1"]})}
FORMS = {
    "list": lambda _: TEXTS,
    "Dataset": lambda _: datasets.Dataset.from_dict({"text": TEXTS}),
    "DatasetDict": lambda _: datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict({"text": [None, *TEXTS]}), **SPLITS}
    ),
    "stream": lambda _: datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(),
    "iterator": lambda _: iter(TEXTS),
    "mappings": lambda _: ({"document": text} for text in TEXTS),
    "jsonl": lambda path: jsonl(path / "texts.jsonl"),
    "str": lambda path: str(jsonl(path / "texts.jsonl")),
    "parquet": lambda path: parquet(path / "texts.parquet"),
    "folder": lambda path: folder(path / "texts"),
    "save_to_disk": lambda path: saved(path / "saved"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_packed_rows(form: str, host: Host, tmp_path: Path) -> None:
    assert opened(FORMS[form](tmp_path), host) == sorted(PACKED)


@pytest.mark.parametrize("form", ["list", "Dataset", "jsonl", "save_to_disk"])
def test_every_form_gives_one_text_a_row(form: str, host: Host, tmp_path: Path) -> None:
    assert opened(FORMS[form](tmp_path), host, concat=False) == sorted(SINGLE)


def test_a_text_file_is_a_document_or_one_text_a_line(host: Host, tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(TEXTS))
    assert opened(tmp_path / "all.txt", host, concat=False) == sorted(SINGLE)
    whole = opened(tmp_path / "all.txt", host)
    assert sum(row.count(1) for row in whole) == len(whole)


BATCHES = [
    torch.tensor([[1, 5, 6, 7, 8, 9], [1, 9, 9, 9, 9, 9]]),
    torch.tensor([[1, 4, 4, 4, 4, 4]]),
]
ID_ROWS = sorted(row for batch in BATCHES for row in batch.tolist())
ID_FORMS = {
    "iterator of tensors": lambda: iter(BATCHES),
    "iterator of arrays": lambda: (batch.numpy() for batch in BATCHES),
    "iterator of lists": lambda: iter(ID_ROWS),
    "iterator of mappings": lambda: ({"input_ids": batch} for batch in BATCHES),
    "list of tensors": lambda: BATCHES,
    "list of lists": lambda: ID_ROWS,
    "tensor": lambda: torch.tensor(ID_ROWS),
    "array": lambda: torch.tensor(ID_ROWS).numpy(),
    "Dataset": lambda: datasets.Dataset.from_dict({"tokens": ID_ROWS, "text": ["a"] * 3}),
    "as tensors": lambda: datasets.Dataset.from_dict({"tokens": ID_ROWS}).with_format("torch"),
}


@pytest.mark.parametrize("form", ID_FORMS)
def test_token_ids_are_used_as_they_are(form: str, host: Host) -> None:
    assert opened(ID_FORMS[form](), host) == ID_ROWS


def test_long_rows_of_ids_are_cut_and_short_ones_padded(host: Host) -> None:
    long = [1, *range(10, 19)]
    assert opened([long], host) == [[1, 10, 11, 12, 13, 14], [1, 15, 16, 17, 18]]
    assert opened([long[1:]], host) == [[10, 11, 12, 13, 14, 15], [16, 17, 18]]
    assert opened([long], host, concat=False) == [[1, 10, 11, 12, 13, 14]]


def test_a_column_can_be_named(host: Host, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "texts.jsonl", "body")
    assert opened(path, host, column="body") == sorted(PACKED)
    words = datasets.Dataset.from_dict({"tokens": [["w1"]], "text": [" w1" * CONTEXT]})
    assert opened(words, host) == [[1, *[5] * 5]]


def test_each_epoch_has_an_order_of_its_own(host: Host) -> None:
    texts = [f" w{i}" for i in range(40)]
    source = open_contexts(texts, host, context=CONTEXT, concat=False, seed=3)
    assert source.n_rows == 40
    epochs = [lists(source.rows(40 * epoch, 40)) for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    again = open_contexts(texts, host, context=CONTEXT, concat=False, seed=3)
    assert lists(again.rows(35, 90)) == [r for e in epochs for r in e][35:] + lists(
        source.rows(120, 5)
    )
    other = open_contexts(texts, host, context=CONTEXT, concat=False, seed=4)
    assert lists(other.rows(0, 40)) != epochs[0]


def test_rows_are_cut_once_and_then_come_from_the_cache(host: Host, tmp_path: Path) -> None:
    path, seen = jsonl(tmp_path / "texts.jsonl"), []

    def watch(done: int, total: int, what: str) -> None:
        seen.append((done, total, what))

    first = opened(path, host, progress=watch)
    assert seen == [(5, 5, "documents")]
    assert opened(path, host, progress=watch) == first
    assert len(seen) == 1
    opened(path, host, progress=watch, concat=False)
    assert len(seen) == 2
    source: Any = open_contexts(path, host, context=CONTEXT)
    assert source._dataset.cache_files


def test_a_stream_is_read_onwards() -> None:
    source = StreamedContexts(iter([[i, i] for i in range(5)]), context=2)
    assert lists(source.rows(1, 2)) == [[1, 1], [2, 2]]
    assert lists(source.rows(0, 2)) == [[0, 0], [1, 1]]
    assert lists(source.rows(2, 3)) == [[2, 2], [3, 3], [4, 4]]
    with pytest.raises(InputError, match="ended after 5 rows"):
        source.rows(4, 2)


def test_a_stream_cannot_go_far_back() -> None:
    def forever() -> Iterator[list[int]]:
        while True:
            yield [1, 2]

    source = StreamedContexts(forever(), context=REMEMBERED // 2)
    source.rows(0, 4)
    source.rows(2, 1)
    with pytest.raises(InputError, match="cannot go back to row 1 from row 4"):
        source.rows(1, 1)


def test_long_documents_are_tokenized_in_pieces(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f" w{i % 40}" for i in range(100))
    whole = opened([text], host)
    monkeypatch.setattr(packing, "PIECE", 10)
    assert opened([text, ""], host) == whole


documents = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=12)


@given(documents, st.integers(2, 7), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_packing_is_that_of_sae_lens(
    documents: list[list[int]], context: int, start: bool, separate: bool
) -> None:
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    packer = Packer(context, [1] if start else [], [1] if separate else [])
    packed = [row for document in documents for row in packer.add(document)]
    expected = concat_and_batch_sequences(
        iter([torch.tensor(document).long() for document in documents]),
        context,
        begin_batch_token_id=1 if start else None,
        sequence_separator_token_id=1 if separate else None,
    )
    assert packed == [row.tolist() for row in expected]


def refuse(dataset: Any, host: Host, words: str, error: type = InputError, **options: Any) -> None:
    with pytest.raises(error, match=words):
        open_contexts(dataset, host, **{"context": CONTEXT, **options}).rows(0, 1)


def test_a_dataset_that_cannot_be_used_is_refused(host: Host) -> None:
    for empty in ([], iter([]), datasets.Dataset.from_dict({"text": []}), torch.zeros(0, 3)):
        refuse(empty, host, "the dataset is empty")
    columns = datasets.Dataset.from_dict({"body": TEXTS, "label": [1] * 5})
    refuse(columns, host, r"looked for input_ids.*columns are body, label\. .*column=")
    refuse(columns, host, "looked for 'bdy'", column="bdy")
    refuse(columns.to_iterable_dataset(), host, "columns are body, label")
    for short in ([" w1", " w2"], iter([" w1", " w2"]), ["", ""]):
        refuse(short, host, "shorter than one context of 6 tokens")
    refuse(
        datasets.DatasetDict(SPLITS),
        host,
        "expected a dataset with a 'train' split; it has the splits test",
    )
    refuse(3, host, "got int")
    refuse(iter([3.5]), host, "got float 3.5|got float '3.5'")
    refuse(torch.rand(2, 2), host, "must be integers")


@pytest.mark.parametrize("wrong", [VOCAB, -1])
def test_ids_of_another_vocabulary_are_refused(host: Host, wrong: int) -> None:
    rows = [[1, 2, wrong]]
    for dataset in (rows, iter(rows), datasets.Dataset.from_dict({"tokens": rows})):
        refuse(dataset, host, f"token id {wrong} is outside .* of {VOCAB}.*another vocabulary")


@pytest.mark.parametrize("context", [1, 33])
def test_a_context_that_the_model_does_not_take_is_refused(host: Host, context: int) -> None:
    refuse(TEXTS, host, f"between 2 and 32.*got {context}", context=context)


def test_files_that_cannot_be_used_are_refused(host: Host, tmp_path: Path) -> None:
    refuse(tmp_path / "none", host, "no file or folder .*load_dataset", NotFoundError)
    (tmp_path / "empty.jsonl").write_text("")
    refuse(tmp_path / "empty.jsonl", host, "the dataset is empty")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": ')
    refuse(tmp_path / "broken.jsonl", host, "cannot be read as .jsonl", FormatError)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    refuse(tmp_path / "latin.txt", host, "cannot be read as .txt", FormatError)
    (tmp_path / "model.pkl").write_text("x")
    refuse(tmp_path / "model.pkl", host, "has none")
    (tmp_path / "both").mkdir()
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / "both" / name).write_text("{}")
    refuse(tmp_path / "both", host, "files of several kinds")
