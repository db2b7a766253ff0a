"""Packing: documents are tokenized and cut into rows of token ids, several or one per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tl_attribution.errors import InputError
from tl_attribution.hosts.protocols import Trainable

PIECE = 1 << 18
"""Characters that are tokenized at once; longer documents are cut before a space."""


class Packer:
    """Joins documents into rows of exactly ``context`` ids, as SAELens packs them.

    Each row begins with ``start`` (BOS, or nothing); ``separator`` stands before a document that
    does not begin a row. Neither is repeated if the document already begins with it.
    """

    def __init__(self, context: int, start: list[int], separator: list[int]) -> None:
        self._context, self._start, self._separator = context, start, separator
        self._row: list[int] = []

    def add(self, ids: Sequence[int]) -> Iterator[list[int]]:
        """The rows that a document fills; its remaining tokens begin the next row."""
        if len(ids) and self._row and list(ids[:1]) != self._separator:
            self._row += self._separator
        first = 0
        while first < len(ids):
            if not self._row and list(ids[first : first + 1]) != self._start:
                self._row = list(self._start)
            end = first + self._context - len(self._row)
            self._row += ids[first:end]
            first = end
            if len(self._row) == self._context:
                yield self._row
                self._row = []


class ContextCutter:
    """Cuts documents, as texts or as token ids, into rows of at most ``context`` ids."""

    def __init__(self, host: Trainable, *, context: int, concat: bool) -> None:
        self._host, self._context, self._concat = host, context, concat
        self._bos = host.bos_token_id
        self._start: list[int] | None = None
        self._packer: Packer | None = None

    def of_texts(self, texts: Sequence[str | None]) -> Iterator[list[int]]:
        """Packed rows, or with ``concat=False`` the beginning of each text. Empty texts are
        skipped."""
        start = self._row_start()
        for ids in self._tokenized([text for text in texts if text]):
            if self._packer is not None:
                yield from map(self._checked, self._packer.add(ids))
            elif ids:
                yield self._checked((start + ids)[: self._context])

    def of_ids(self, documents: Iterable[Any]) -> Iterator[list[int]]:
        """Rows of token ids, unpacked. A document longer than a context gives several rows, each
        with BOS in front if the document has it; with ``concat=False``, its beginning."""
        for document in documents:
            for ids in id_rows(document):
                if len(ids) <= self._context or not self._concat:
                    cut = [ids[: self._context]] if ids else []
                else:
                    cut = self._pieces(ids)
                yield from map(self._checked, cut)

    def _row_start(self) -> list[int]:
        if self._start is None:
            self._start = self._host.tokenize_all([""], with_bos=True)[0]
            if self._concat:
                separator = [] if self._bos is None else [self._bos]
                self._packer = Packer(self._context, self._start, separator)
        return self._start

    def _tokenized(self, texts: list[str]) -> Iterator[list[int]]:
        pieces = [list(_text_pieces(text)) for text in texts]
        flat = [piece for of_text in pieces for piece in of_text]
        tokenized = iter(self._host.tokenize_all(flat, with_bos=False) if flat else [])
        for of_text in pieces:
            yield [i for _ in of_text for i in next(tokenized)]

    def _pieces(self, ids: list[int]) -> Iterator[list[int]]:
        start = ids[:1] if ids[0] == self._bos else []
        step = self._context - len(start)
        for first in range(len(start), len(ids), step):
            yield start + ids[first : first + step]

    def _checked(self, row: list[int]) -> list[int]:
        low, high = min(row), max(row)
        if low < 0 or high >= self._host.d_vocab:
            raise InputError(
                f"token id {low if low < 0 else high} is outside {self._host.name}'s vocabulary of "
                f"{self._host.d_vocab}: the dataset was tokenized for another vocabulary. Give it "
                "as text, or tokenized with this model's tokenizer"
            )
        return row


def id_rows(value: Any) -> Iterator[list[int]]:
    """The rows of token ids in a list, an array or a tensor, of one row or of several.

    Raises InputError unless it holds integers only.
    """
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, (list, tuple)):
        plain = [v.tolist() if hasattr(v, "tolist") else v for v in values]
        if all(type(i) is int for i in plain):
            yield plain
            return
        if all(isinstance(row, (list, tuple)) for row in plain):
            for row in plain:
                yield from id_rows(row)
            return
    raise InputError(
        f"token ids must be integers, in rows or batches of rows; got {type(value).__name__} "
        f"{str(value)[:60]!r}"
    )


def is_ids(value: Any) -> bool:
    """Whether a value consists of token ids."""
    try:
        return sum(1 for _ in id_rows(value)) > 0
    except InputError:
        return False


def _text_pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        cut = text.rfind(" ", start + 1, start + PIECE)
        cut = cut if cut > 0 else start + PIECE
        yield text[start:cut]
        start = cut
    yield text[start:]
