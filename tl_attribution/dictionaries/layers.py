"""One layer's weights: in memory, or on disk and read when they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.stored import Stored
from tl_attribution.errors import MismatchError


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer's features, in memory.

    ``W_enc`` [feature, d_model], ``b_enc`` [feature], ``W_dec`` [feature, written, d_model],
    ``b_dec`` [d_model], ``W_skip`` [out, in]. ``W_dec[i, k]`` is what feature i writes k layers
    above its own, so that one feature's decoder is one run of bytes on disk; ``offset[i, k]``, if
    there is one, is added to the activation of an active feature before that decoder. Raises
    MismatchError for shapes that don't fit each other.
    """

    # Axes are named by the check below, which says more than a type error would.
    W_enc: Float[Tensor, "_ _"]
    b_enc: Float[Tensor, " _"]
    W_dec: Float[Tensor, "_ _ _"]
    b_dec: Float[Tensor, " _"]
    W_skip: Float[Tensor, "_ _"] | None = None
    offset: Float[Tensor, "_ _"] | None = None

    def __post_init__(self) -> None:
        parts = {k: getattr(self, k) for k in ("b_enc", "W_dec", "b_dec", "W_skip", "offset")}
        shapes = {name: tuple(part.shape) for name, part in parts.items() if part is not None}
        check_shapes(self.shape, self.n_written, shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """[feature, d_model]."""
        return tuple(self.W_enc.shape)

    @property
    def n_written(self) -> int:
        """Layers that the features write to."""
        return self.W_dec.shape[1]

    def encoder_rows(self, index: Int[Tensor, " active"]) -> Float[Tensor, "active d_model"]:
        """Encoder vectors of some features."""
        return self.W_enc[index.to(self.W_enc.device)]

    def decoder_rows(
        self, index: Int[Tensor, " active"], k: int
    ) -> Float[Tensor, "active d_model"]:
        """What some features write k layers above their own."""
        return self.W_dec[index.to(self.W_dec.device), k]


def check_shapes(
    encoder: tuple[int, ...], written: int, found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise MismatchError unless the parts of a layer fit its encoder [feature, d_model]. A part
    named ``W_dec …`` is one decoder [feature, d_model]."""
    if len(encoder) != 2:
        raise MismatchError(f"W_enc is {encoder}, expected two axes, feature and d_model")
    features, width = encoder
    expected = {
        "b_enc": (features,),
        "W_dec": (features, written, width),
        "b_dec": (width,),
        "W_skip": (width, width),
        "offset": (features, written),
    }
    for name, shape in found.items():
        wanted = expected.get(name, (features, width))
        if shape != wanted:
            raise MismatchError(f"{name} is {shape}, expected {wanted} beside W_enc {encoder}")


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """One layer's weights on disk, with the attributes and methods of
    :class:`LayerWeights`. ``decoders[k]`` is what features
    write k layers above their own. Biases are small and in memory."""

    encoder: Stored
    b_enc: Float[Tensor, " _"]
    decoders: tuple[Stored, ...]
    b_dec: Float[Tensor, " _"]
    stored_skip: Stored | None = None
    offset: Float[Tensor, "_ _"] | None = None

    def __post_init__(self) -> None:
        parts: dict[str, Any] = {f"W_dec to layer +{k}": d for k, d in enumerate(self.decoders)}
        parts |= {"b_enc": self.b_enc, "b_dec": self.b_dec, "offset": self.offset}
        parts |= {"W_skip": self.stored_skip}
        shapes = {name: tuple(part.shape) for name, part in parts.items() if part is not None}
        for matrix in (self.encoder, *self.decoders):
            matrix.file.dtype(matrix.name)
        try:
            check_shapes(self.shape, self.n_written, shapes)
        except MismatchError as error:
            raise MismatchError(f"{self.encoder.file.path}: {error}") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """[feature, d_model]."""
        return self.encoder.shape

    @property
    def n_written(self) -> int:
        """Layers that the features write to."""
        return len(self.decoders)

    @property
    def W_enc(self) -> Float[Tensor, "feature d_model"]:
        """The encoder."""
        return self.encoder.whole()

    @property
    def W_dec(self) -> Float[Tensor, "feature written d_model"]:
        """All decoders, which may be large."""
        return torch.stack([one.whole() for one in self.decoders], 1)

    @property
    def W_skip(self) -> Float[Tensor, "d_model d_model"] | None:
        """The linear skip, [out, in]."""
        return None if self.stored_skip is None else self.stored_skip.whole()

    def encoder_rows(self, index: Int[Tensor, " active"]) -> Float[Tensor, "active d_model"]:
        """Encoder vectors of some features."""
        return self.encoder.rows(index)

    def decoder_rows(
        self, index: Int[Tensor, " active"], k: int
    ) -> Float[Tensor, "active d_model"]:
        """What some features write k layers above their own."""
        return self.decoders[k].rows(index)

    def cast(self, dtype: torch.dtype) -> StoredLayer:
        """The same, read as ``dtype``."""
        skip = self.stored_skip
        return replace(
            self,
            encoder=replace(self.encoder, cast=dtype),
            b_enc=self.b_enc.to(dtype),
            decoders=tuple(replace(one, cast=dtype) for one in self.decoders),
            b_dec=self.b_dec.to(dtype),
            stored_skip=None if skip is None else replace(skip, cast=dtype),
        )

    def in_memory(self, device: str | torch.device) -> LayerWeights:
        """All of it read, on a device."""
        parts = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip", "offset")
        found = {name: getattr(self, name) for name in parts}
        return LayerWeights(**{k: t.to(device) for k, t in found.items() if t is not None})


Layer = Union[LayerWeights, StoredLayer]  # noqa: UP007  # evaluated on Python 3.10
