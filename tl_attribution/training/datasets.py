"""A dataset in whatever form a user has it, as rows of token ids for one model.

Datasets that can be indexed are tokenised once into an arrow file in the datasets library's cache
(those that live in memory, into memory), and read from there in a new order every epoch. Streams
are tokenised as they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Trainable
from tl_attribution.training.activation_reader import Read, reader_for
from tl_attribution.training.contexts import (
    Contexts,
    ContextSource,
    IndexedContexts,
    StreamedContexts,
)
from tl_attribution.training.dataset_files import open_path, quiet
from tl_attribution.training.packing import ContextCutter, id_rows, is_ids

__all__ = [
    "ContextSource",
    "Contexts",
    "Progress",
    "Read",
    "open_rows",
    "reader_for",
]

Progress = Callable[[int, int, str], None]
"""(done, in all, of what): called as long work goes on."""

Kind = Literal["text", "ids"]
ID_COLUMNS = ("input_ids", "tokens", "token_ids")
TEXT_COLUMNS = ("text", "content", "document", "sentence", "prompt")
FORMAT = 1
"""Goes up when the same dataset would be cut into other rows, so that old caches are not read."""
AT_ONCE = 100
"""Documents that are tokenised together."""
LOOKED_AT = 20
"""Documents that are looked at for a column, in case the first have none."""


def open_rows(
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
    token ids, or mappings that hold either. An iterator is a stream: it is read once.

    ``concat``: texts are joined, BOS between them, and cut into rows of exactly ``context`` tokens
    that each begin with BOS if the model wants one; otherwise each text is a row, cut at
    ``context``. A .txt file is one text, or without ``concat`` one text a line. Token ids are never
    joined; longer ones are cut like texts. ``column``: where the texts or ids are, if not in one
    of the usual columns. ``seed``: of the rows' order.

    Raises InputError for a dataset that is empty, has no such column, is shorter than one context
    or tokenised for another vocabulary, and for a context that the model does not take;
    NotFoundError for a path that leads nowhere; FormatError for a broken file.
    """
    if not 2 <= context <= host.n_ctx:
        raise InputError(
            f"context must be between 2 and {host.n_ctx}, what {host.name} takes; got {context}"
        )
    cutter = ContextCutter(host, context=context, concat=concat)
    found = _opened(dataset, concat)
    if _indexed(found):
        column, kind = _column(list(islice(found, LOOKED_AT)), column)
        key = (context, concat, column, kind, host.d_vocab, host.bos_token_id)
        key = (*key, host.tokenizer_digest() if kind == "text" else "")
        made = _cut(found, column, kind, cutter, key, progress)
        if not len(made):
            raise InputError(_too_short(context))
        return IndexedContexts(made, "ids", context=context, seed=seed)
    return StreamedContexts(_streamed(iter(found), column, cutter, context), context=context)


def _opened(dataset: Any, concat: bool) -> Any:
    """A Dataset, or an iterable over documents, rows or mappings."""
    import datasets

    if isinstance(dataset, (str, Path)):
        dataset = open_path(Path(dataset), concat=concat)
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if "train" not in dataset:
            raise InputError(
                f"the dataset has the splits {', '.join(map(str, dataset))} and no 'train'; give "
                "one of them: dataset['…']"
            )
        dataset = dataset["train"]
    if isinstance(dataset, datasets.IterableDataset):
        return dataset
    if not isinstance(dataset, Iterable):
        raise InputError(
            f"a dataset is a Hugging Face dataset, a path, a list of texts or an iterator of token "
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
    """A Dataset of a list of texts, mappings or ids, or of an array of ids."""
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
    """The column to read, and what it holds. Raises InputError with all columns there are."""
    for name in (column,) if column is not None else ID_COLUMNS + TEXT_COLUMNS:
        values = [row[name] for row in sample if row.get(name) is not None]
        kind = _kind(values[0]) if values else None
        if kind is not None:
            return name, kind
    looked = repr(column) if column is not None else ", ".join(ID_COLUMNS + TEXT_COLUMNS)
    there = ", ".join(sorted({str(name) for row in sample for name in row})) or "none"
    raise InputError(
        f"the dataset has no column of texts or token ids: looked for {looked}; its columns are "
        f"{there}. Name the right one with column="
    )


def _cut(
    dataset: Any,
    column: str,
    kind: Kind,
    cutter: ContextCutter,
    key: tuple,
    progress: Progress | None,
) -> Any:
    """The rows of a Dataset as another one, with the column ``ids``."""
    import datasets

    cut = cutter.of_texts if kind == "text" else cutter.of_ids
    done = 0

    def rows(batch: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
        nonlocal done
        made = list(cut([v for v in batch[column] if v is not None]))
        done += len(batch[column])
        if progress is not None:
            progress(done, len(dataset), "documents")
        return {"ids": made}

    plain = dataset.with_format(None).select_columns([column])
    about = (FORMAT, plain._fingerprint, *key)
    with quiet():
        return plain.map(
            rows,
            batched=True,
            batch_size=AT_ONCE,
            remove_columns=[column],
            features=datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))}),
            new_fingerprint=hashlib.sha256(repr(about).encode()).hexdigest()[:16],
        )


def _streamed(
    items: Iterator[Any], column: str | None, cutter: ContextCutter, context: int
) -> Iterator[list[int]]:
    """Rows of a stream. What its documents are is found by looking at the first ones."""
    sample = list(islice(items, 1))
    if not sample:
        raise InputError("the dataset is empty: its stream ended before the first document")
    if isinstance(sample[0], Mapping):
        sample += islice(items, LOOKED_AT - 1)
        name, kind = _column(sample, column)
        return _cut_stream((i.get(name) for i in chain(sample, items)), kind, cutter, context)
    kind = _kind(sample[0])
    if kind is None:
        raise InputError(
            "a stream gives texts, token ids or mappings that hold either; got "
            f"{type(sample[0]).__name__} {str(sample[0])[:60]!r}"
        )
    return _cut_stream(chain(sample, items), kind, cutter, context)


def _cut_stream(
    documents: Iterator[Any], kind: Kind, cutter: ContextCutter, context: int
) -> Iterator[list[int]]:
    cut = cutter.of_texts if kind == "text" else cutter.of_ids
    some = False
    while group := list(islice(documents, AT_ONCE if kind == "text" else 1)):
        for row in cut([document for document in group if document is not None]):
            some = True
            yield row
    if not some:
        raise InputError(_too_short(context))


def _too_short(context: int) -> str:
    return (
        f"the dataset's documents together are shorter than one context of {context} tokens; ask "
        "for a shorter context, or give concat=False to make each document a row of its own"
    )
