"""A matrix that stays on disk: it is read when it is used, and let go after.

Formats keep their matrices in every order and scale; here all look alike, [feature, d_model].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

Part = tuple[Any, ...]
"""An index into a tensor: whole numbers and slices."""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix [row, column] in a file: the tensor ``name``, of it what is ``at``, perhaps
    transposed, times ``row_scale`` and ``column_scale`` in fp32."""

    file: TensorFile
    name: str
    at: Part = ()
    transposed: bool = False
    row_scale: Float[Tensor, " _"] | None = None
    column_scale: Float[Tensor, " _"] | None = None
    cast: torch.dtype | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[row, column], from the header."""
        try:
            whole = torch.empty(self.file.shape(self.name), device="meta")
            found = tuple(whole[self.at].shape)
        except IndexError as error:
            raise FormatError(
                f"{self.file.path}: {self.name} is {self.file.shape(self.name)}, which has no part "
                f"{self.at}"
            ) from error
        return found[::-1] if self.transposed else found

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        if self.cast is not None:
            return self.cast
        scaled = self.row_scale is not None or self.column_scale is not None
        stored = self.file.dtype(self.name)
        return torch.promote_types(stored, torch.float32) if scaled else stored

    def _mapped(self) -> Tensor:
        part = self.file.mapped(self.name)[self.at]
        return part.T if self.transposed else part

    def whole(self) -> Float[Tensor, "row column"]:
        """All of it."""
        return self._finish(self._mapped(), self.row_scale)

    def rows(self, index: Int[Tensor, " some"]) -> Float[Tensor, "some column"]:
        """Some rows; nothing else is read, unless the file holds it transposed."""
        index = index.cpu()
        scale = None if self.row_scale is None else self.row_scale[index]
        return self._finish(self._mapped()[index], scale)

    def _finish(self, rows: Tensor, row_scale: Tensor | None) -> Tensor:
        if row_scale is not None:
            rows = rows * row_scale[:, None]
        if self.column_scale is not None:
            rows = rows * self.column_scale
        return rows.to(self.dtype)
