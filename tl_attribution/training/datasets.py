"""Datasets: texts or token ids in any usual form, opened as contexts for one model.

Datasets that can be indexed are tokenized once, into an arrow file in the datasets library's cache
(datasets in memory, into memory), and read from there in a new order every epoch. Streams are
tokenized as they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Trainable
from tl_attribution.training.contexts import ContextSource, IndexedContexts, StreamedContexts
from tl_attribution.training.dataset_files import no_progress_bars, open_path
from tl_attribution.training.packing import ContextCutter, id_rows, is_ids

Progress = Callable[[int, int, str], None]
"""(done, total, unit): called as long work goes on."""

Kind = Literal["text", "ids"]
ID_COLUMNS = ("input_ids", "tokens", "token_ids")
TEXT_COLUMNS = ("text", "content", "document", "sentence", "prompt")
CACHE_FORMAT = 1
"""Version of the cached rows: raised when the same dataset would be cut into other rows."""
TOKENIZED_AT_ONCE = 100
"""Documents that are tokenized together."""
SAMPLED = 20
"""Documents in which a column is looked for, in case the first ones have none."""


def open_contexts(
    dataset: Any,
    host: Trainable,
    *,
    context: int,
    concat: bool = True,
    column: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ContextSource:
    """Open a dataset as rows of at most ``context`` token ids of ``host``.

    ``dataset``: a ``datasets.Dataset``, ``DatasetDict`` (its 'train' split) or ``IterableDataset``;
    a .jsonl, .json, .txt or .parquet file, a folder of such, or of ``Dataset.save_to_disk``; a list
    of texts; a tensor or list of token ids [row, position]; or an iterator over texts, batches of
    token ids, or mappings with either. An iterator is a stream: it is read once.

    ``concat``: texts are joined, BOS between them, and cut into rows of exactly ``context`` tokens
    that each begin with BOS if the model expects it; otherwise each text is a row, cut at
    ``context``. A .txt file is one text, or without ``concat`` one text per line. Token ids are
    never joined; longer ones are cut like texts. ``column``: the column of the texts or ids, if it
    has none of the usual names. ``seed``: seed of the rows' order.

    Raises InputError for a dataset that is empty, has no such column, is shorter than one context
    or tokenized for another vocabulary, and for a context longer than the model's; NotFoundError
    for a path that does not exist; FormatError for a broken file.
    """
    if not 2 <= context <= host.n_ctx:
        raise InputError(
            f"context must be between 2 and {host.n_ctx}, the context size of {host.name}; got "
            f"{context}"
        )
    cutter = ContextCutter(host, context=context, concat=concat)
    documents = _opened(dataset, concat)
    if _indexed(documents):
        column, kind = _column(list(islice(documents, SAMPLED)), column)
        key = (context, concat, column, kind, host.d_vocab, host.bos_token_id)
        key = (*key, host.tokenizer_digest() if kind == "text" else "")
        rows = _cut(documents, column, kind, cutter, key, progress)
        if not len(rows):
            raise InputError(_too_short(context))
        return IndexedContexts(rows, "ids", context=context, seed=seed)
    return StreamedContexts(_streamed(iter(documents), column, cutter, context), context=context)


def _opened(dataset: Any, concat: bool) -> Any:
    """A Dataset, or an iterable over documents, rows or mappings."""
    import datasets

    if isinstance(dataset, (str, Path)):
        dataset = open_path(Path(dataset), concat=concat)
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if "train" not in dataset:
            raise InputError(
                f"expected a dataset with a 'train' split; it has the splits "
                f"{', '.join(map(str, dataset))}. Choose one: dataset['…']"
            )
        dataset = dataset["train"]
    if isinstance(dataset, datasets.IterableDataset):
        return dataset
    if not isinstance(dataset, Iterable):
        raise InputError(
            f"expected a Hugging Face dataset, a path, a list of texts or an iterator of token "
            f"batches; got {type(dataset).__name__}"
        )
    if isinstance(dataset, (list, tuple)) or hasattr(dataset, "tolist"):
        return _from_memory(dataset)
    if isinstance(dataset, datasets.Dataset) and not len(dataset):
        raise InputError("the dataset is empty")
    return dataset


def _indexed(dataset: Any) -> bool:
    import datasets

    return isinstance(dataset, datasets.Dataset)


def _from_memory(values: Any) -> Any:
    """A Dataset from a list of texts, mappings or ids, or from an array of ids."""
    import datasets

    if len(values) == 0:
        raise InputError("the dataset is empty")
    if isinstance(values[0], str):
        return datasets.Dataset.from_dict({"text": list(values)})
    if isinstance(values[0], Mapping):
        return datasets.Dataset.from_list(list(values))
    rows = list(id_rows(values))
    return datasets.Dataset.from_dict({"input_ids": rows})


def _kind(value: Any) -> Kind | None:
    if isinstance(value, str):
        return "text"
    return "ids" if is_ids(value) else None


def _column(sample: list[Mapping[str, Any]], column: str | None) -> tuple[str, Kind]:
    """The column to read, and its kind. Raises InputError that lists the dataset's columns."""
    for name in (column,) if column is not None else ID_COLUMNS + TEXT_COLUMNS:
        values = [row[name] for row in sample if row.get(name) is not None]
        kind = _kind(values[0]) if values else None
        if kind is not None:
            return name, kind
    expected = repr(column) if column is not None else ", ".join(ID_COLUMNS + TEXT_COLUMNS)
    columns = ", ".join(sorted({str(name) for row in sample for name in row})) or "none"
    raise InputError(
        f"the dataset has no column of texts or token ids: looked for {expected}; its columns "
        f"are {columns}. Name the right one with column="
    )


def _cut(
    dataset: Any,
    column: str,
    kind: Kind,
    cutter: ContextCutter,
    key: tuple,
    progress: Progress | None,
) -> Any:
    """The rows of a Dataset as another Dataset, with the column ``ids``."""
    import datasets

    cut = cutter.of_texts if kind == "text" else cutter.of_ids
    done = 0

    def rows(batch: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
        nonlocal done
        ids = list(cut([v for v in batch[column] if v is not None]))
        done += len(batch[column])
        if progress is not None:
            progress(done, len(dataset), "documents")
        return {"ids": ids}

    plain = dataset.with_format(None).select_columns([column])
    identity = (CACHE_FORMAT, plain._fingerprint, *key)
    with no_progress_bars():
        return plain.map(
            rows,
            batched=True,
            batch_size=TOKENIZED_AT_ONCE,
            remove_columns=[column],
            features=datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))}),
            new_fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        )


def _streamed(
    items: Iterator[Any], column: str | None, cutter: ContextCutter, context: int
) -> Iterator[list[int]]:
    """Rows of a stream. The kind of its documents is that of the first ones."""
    sample = list(islice(items, 1))
    if not sample:
        raise InputError("the dataset is empty: its stream ended before the first document")
    if isinstance(sample[0], Mapping):
        sample += islice(items, SAMPLED - 1)
        name, kind = _column(sample, column)
        return _cut_stream((i.get(name) for i in chain(sample, items)), kind, cutter, context)
    kind = _kind(sample[0])
    if kind is None:
        raise InputError(
            "expected a stream of texts, of token ids or of mappings with either; got "
            f"{type(sample[0]).__name__} {str(sample[0])[:60]!r}"
        )
    return _cut_stream(chain(sample, items), kind, cutter, context)


def _cut_stream(
    documents: Iterator[Any], kind: Kind, cutter: ContextCutter, context: int
) -> Iterator[list[int]]:
    cut = cutter.of_texts if kind == "text" else cutter.of_ids
    empty = True
    while group := list(islice(documents, TOKENIZED_AT_ONCE if kind == "text" else 1)):
        for row in cut([document for document in group if document is not None]):
            empty = False
            yield row
    if empty:
        raise InputError(_too_short(context))


def _too_short(context: int) -> str:
    return (
        f"the dataset's documents together are shorter than one context of {context} tokens; "
        "choose a shorter context, or give concat=False to make each document one row"
    )
