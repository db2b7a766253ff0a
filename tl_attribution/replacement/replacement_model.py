"""The host with a dictionary in place of its MLPs: at one layer, or at all of them.

The prefix keeps the MLP outputs of the host, so everything here is about the positions after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.hosts.protocols import Host, ReplaceMlp
from tl_attribution.shapes import Stream, TokenIds

Logits = Float[Tensor, "position vocab"]


class ActiveColumns(NamedTuple):
    """One layer's activations without the features that are active nowhere, so that decoding costs
    what the active features cost, not what the dictionary's width does."""

    feature: Int[Tensor, " used"]
    activation: Float[Tensor, "position used"]


class HostRun(NamedTuple):
    """The host's own run. ``logits`` are of all positions; ``read`` and ``written``, one tensor a
    layer, of those after the prefix."""

    logits: Logits
    read: list[Stream]
    written: list[Stream]


def encode(dictionary: Dictionary, layer: int, x: Stream) -> ActiveColumns:
    """One layer's active features on ``x``."""
    activation = dictionary.encode_layer(layer, x).activation
    feature = activation.any(0).nonzero().flatten()
    return ActiveColumns(feature, activation[:, feature])


def reconstruct(
    dictionary: Dictionary, active: list[ActiveColumns], layer: int, x: Stream, like: Stream
) -> Stream:
    """What the dictionary writes at ``layer``: ``active`` are the features of the layers up to it,
    ``x`` is what is read there, ``like`` has the shape and dtype of what is written."""
    out = dictionary.affine(layer, x, like)
    for source, (feature, activation) in enumerate(active[: layer + 1]):
        if layer in dictionary.written_layers(source):
            written = dictionary.written_activation(source, feature, layer, activation)
            out = out + written @ dictionary.writes(source, feature, layer).to(activation)
    return out


@dataclass(frozen=True, eq=False)
class ReplacementModel:
    """A host and a dictionary on one prompt."""

    host: Host
    dictionary: Dictionary
    token_ids: TokenIds
    prefix: int

    def original(self) -> HostRun:
        """The host's own logits, and what its MLPs read and write."""
        read: list[Stream] = []
        written: list[Stream] = []

        def look(layer: int, x: Stream, out: Stream) -> Stream:
            del layer
            read.append(x)
            written.append(out)
            return out

        return HostRun(self._run(look), read, written)

    def one_layer(self, layer: int, output: Float[Tensor, "after_prefix d_model"]) -> Logits:
        """Logits with ``output`` as what the MLP of ``layer`` writes."""
        return self._run(lambda at, x, out: output if at == layer else out)

    def ablated(self, layer: int | None = None) -> Logits:
        """Logits with zero as what the MLP of ``layer`` writes, or of every layer."""
        return self._run(lambda at, x, out: torch.zeros_like(out) if layer in (at, None) else out)

    def all_layers(
        self, missed: list[Float[Tensor, "after_prefix d_model"]] | None = None
    ) -> Logits:
        """Logits of the replacement model: features read its own streams. ``missed`` is added to
        what they write."""
        active: list[ActiveColumns] = []

        def replace(layer: int, x: Stream, out: Stream) -> Stream:
            active.append(encode(self.dictionary, layer, x))
            made = reconstruct(self.dictionary, active, layer, x, out)
            return made if missed is None else made + missed[layer]

        return self._run(replace)

    def _run(self, replace: ReplaceMlp) -> Logits:
        """A run in which ``replace`` sees and gives the positions after the prefix."""
        first = self.prefix

        def after_prefix(layer: int, x: Stream, out: Stream) -> Stream:
            return torch.cat([out[:first], replace(layer, x[first:], out[first:])])

        read = self.host.read_site(self.dictionary.feature_input_hook)
        write = self.host.write_site(self.dictionary.feature_output_hook)
        with torch.no_grad():
            return self.host.run_replacing_mlps(self.token_ids, read, write, after_prefix)
