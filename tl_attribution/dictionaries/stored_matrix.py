"""Matrices that stay on disk: read when they are used, and freed afterwards.

Formats differ in the order and scale of their matrices; a :class:`StoredMatrix` reads all of them
as [feature, d_model].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError

Index = tuple[Any, ...]
"""An index into a tensor: integers and slices."""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix [row, column] in a file: ``tensor[index]`` of the tensor ``name``, perhaps
    transposed, times ``row_scale`` and ``column_scale`` in fp32. ``cast`` is the dtype it is
    read as."""

    file: TensorFile
    name: str
    index: Index = ()
    transposed: bool = False
    row_scale: Float[Tensor, " _"] | None = None
    column_scale: Float[Tensor, " _"] | None = None
    cast: torch.dtype | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[row, column], from the header."""
        try:
            tensor = torch.empty(self.file.shape(self.name), device="meta")
            shape = tuple(tensor[self.index].shape)
        except IndexError as error:
            raise FormatError(
                f"{self.file.path}: {self.name} is {self.file.shape(self.name)}, which has no part "
                f"{self.index}"
            ) from error
        return shape[::-1] if self.transposed else shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it is read as."""
        if self.cast is not None:
            return self.cast
        scaled = self.row_scale is not None or self.column_scale is not None
        stored = self.file.dtype(self.name)
        return torch.promote_types(stored, torch.float32) if scaled else stored

    def _mapped(self) -> Tensor:
        part = self.file.mapped(self.name)[self.index]
        return part.T if self.transposed else part

    def whole(self) -> Float[Tensor, "row column"]:
        """Read the whole matrix."""
        return self._scaled(self._mapped(), self.row_scale)

    def rows(self, index: Int[Tensor, " some"]) -> Float[Tensor, "some column"]:
        """Read some rows, and nothing else unless the file holds the matrix transposed."""
        index = index.cpu()
        scale = None if self.row_scale is None else self.row_scale[index]
        return self._scaled(self._mapped()[index], scale)

    def _scaled(self, rows: Tensor, row_scale: Tensor | None) -> Tensor:
        if row_scale is not None:
            rows = rows * row_scale[:, None]
        if self.column_scale is not None:
            rows = rows * self.column_scale
        return rows.to(self.dtype)
