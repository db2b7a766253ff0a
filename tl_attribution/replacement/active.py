"""Which features are active on a prompt: sparse, ordered by layer, position and index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import MismatchError
from tl_attribution.replacement.host import Host, host_for
from tl_attribution.replacement.prompts import Prompt, compute_in_fp32, resolve_prefix, token_ids
from tl_attribution.shapes import Activations, Stream


@dataclass(frozen=True, eq=False)
class ActiveFeatures:
    """Active features of one prompt, on the model's device. ``preactivation`` equals ``activation``
    except for ungated MLP neurons (see :class:`~tl_attribution.dictionaries.base.Encoded`)."""

    layer: Int[Tensor, " active"]
    position: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]
    preactivation: Float[Tensor, " active"]

    def __len__(self) -> int:
        return len(self.layer)

    def select(self, keep: Bool[Tensor, " active"] | Int[Tensor, " kept"]) -> ActiveFeatures:
        """Some of the features, by mask or by row."""
        columns = (self.layer, self.position, self.index, self.activation, self.preactivation)
        return ActiveFeatures(*(column[keep] for column in columns))

    def to(self, device: str | torch.device) -> ActiveFeatures:
        """The same on a device."""
        columns = (self.layer, self.position, self.index, self.activation, self.preactivation)
        return ActiveFeatures(*(column.to(device) for column in columns))

    def to_dense(self, n_layers: int, n_positions: int, n_features: int) -> Activations:
        """The same as a dense tensor, zero where nothing is active."""
        dense = self.activation.new_zeros(n_layers, n_positions, n_features)
        dense[self.layer, self.position, self.index] = self.activation
        return dense


def encode(
    dictionary: Dictionary, read: Callable[[int], Stream], prefix: int, n_positions: int
) -> ActiveFeatures:
    """Active features of every layer from ``read(layer)``, at positions from ``prefix`` up to
    ``n_positions``. One layer's dense activations exist at a time."""
    parts: list[tuple[Tensor, ...]] = []
    for layer in range(dictionary.n_layers):
        activation, preactivation = dictionary.encode_layer(layer, read(layer)[:n_positions])
        position, index = activation[prefix:].nonzero().unbind(1)
        position = position + prefix
        at = (position, index)
        where = torch.full_like(position, layer)
        parts.append((where, position, index, activation[at], preactivation[at]))
    return ActiveFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def check_fits(host: Host, dictionary: Dictionary) -> None:
    """Raise MismatchError unless the dictionary has the model's layers and width, and its name if
    it carries one."""
    for name in ("n_layers", "d_model"):
        theirs, ours = getattr(dictionary, name), getattr(host, name)
        if theirs != ours:
            raise MismatchError(
                f"the dictionary has {name}={theirs}, the model {host.name!r} has {name}={ours}; "
                "they belong to different models"
            )
    if dictionary.model_name and not _same_model(dictionary.model_name, host.name):
        raise MismatchError(
            f"the dictionary was trained on {dictionary.model_name!r}, the model is {host.name!r}; "
            "if they are the same weights under two names, give load_dictionary model_name=, on "
            f"the command line --trained-on {host.name}"
        )


def _same_model(one: str, other: str) -> bool:
    return one.split("/")[-1].lower() == other.split("/")[-1].lower()


def features(
    model: Any,
    prompt: Prompt | Sequence[str],
    dictionary: Dictionary,
    *,
    prefix: int | None = None,
) -> ActiveFeatures | list[ActiveFeatures]:
    """The active features of a prompt, or of each prompt in a list of strings.

    ``prompt``: text, token ids, or a one-dimensional tensor of ids. Features of the prefix (see
    :func:`tl_attribution.attribute`) are left out; ``prefix=0`` keeps them. Raises InputError for a
    prompt that cannot be run and MismatchError for a dictionary of another model.
    """
    host = host_for(compute_in_fp32(model))
    check_fits(host, dictionary)
    if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(p, str) for p in prompt):
        return [_features(host, one, dictionary, prefix) for one in _texts(prompt)]
    return _features(host, prompt, dictionary, prefix)  # type: ignore[arg-type]  # not a list of str


def _texts(prompts: Sequence[Any]) -> Iterable[str]:
    return (str(p) for p in prompts)


def _features(
    host: Host, prompt: Prompt, dictionary: Dictionary, prefix: int | None
) -> ActiveFeatures:
    ids = token_ids(host, prompt)
    read = host.read(ids, host.read_site(dictionary.feature_input_hook))
    first = resolve_prefix(host, ids, prefix)
    return encode(dictionary, lambda layer: read[layer], first, len(ids))
