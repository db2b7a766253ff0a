"""The model with a dictionary in place of its MLPs, on one prompt (methods paper, "From cross-layer
transcoder to replacement model").

The prefix keeps the model's own MLP outputs, so everything here is about the positions after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.hosts.opening import editable
from tl_attribution.hosts.prompt import Prompt, resolve_prompt
from tl_attribution.hosts.protocols import ReplaceMlp
from tl_attribution.replacement.prompt_run import AttachedDictionary, attach
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.shapes import Logits, Stream, TokenIds


class HostRun(NamedTuple):
    """The model's own run. ``logits`` are of all positions; ``read`` and ``written``, one tensor
    per layer, of those after the prefix."""

    logits: Logits
    read: list[Stream]
    written: list[Stream]


@dataclass(frozen=True, eq=False)
class ReplacementModel:
    """A model whose MLPs a dictionary replaces, on one prompt."""

    attached: AttachedDictionary
    token_ids: TokenIds
    prefix: int

    def host_run(self) -> HostRun:
        """The model's own logits, and what its MLPs read and write."""
        read: list[Stream] = []
        written: list[Stream] = []

        def record(layer: int, x: Stream, out: Stream) -> Stream:
            del layer
            read.append(x)
            written.append(out)
            return out

        return HostRun(self._run(record), read, written)

    def all_layers(
        self, errors: list[Float[Tensor, "after_prefix d_model"]] | None = None
    ) -> Logits:
        """Logits of the replacement model: features read its own streams. ``errors`` are added to
        what they write."""
        active: list[ActiveColumns] = []
        dictionary = self.attached.dictionary

        def replace(layer: int, x: Stream, out: Stream) -> Stream:
            active.append(encode_columns(dictionary, layer, x))
            reconstruction = reconstruct(dictionary, active, layer, x, out)
            return reconstruction if errors is None else reconstruction + errors[layer]

        return self._run(replace)

    def _run(self, replace: ReplaceMlp) -> Logits:
        """A run in which ``replace`` sees and gives the positions after the prefix."""
        start, sites = self.prefix, self.attached.sites

        def after_prefix(layer: int, x: Stream, out: Stream) -> Stream:
            return torch.cat([out[:start], replace(layer, x[start:], out[start:])])

        with torch.no_grad():
            return editable(sites.host).run_replacing_mlps(
                self.token_ids, sites.read_site, sites.write_site, after_prefix
            )


def replacement_model(
    attached: AttachedDictionary, prompt: Prompt, prefix: int | None = None
) -> ReplacementModel:
    """The replacement model of one prompt. Raises InputError for a prompt that cannot be run."""
    return ReplacementModel(attached, *resolve_prompt(attached.host, prompt, prefix))


def replacement_logits(
    model: Any,
    prompt: Prompt,
    dictionary: Dictionary,
    *,
    errors: bool = False,
    prefix: int | None = None,
) -> Float[Tensor, "position vocab"]:
    """Logits of the replacement model (methods paper, "From cross-layer transcoder to replacement
    model"): every MLP's output is the dictionary's reconstruction, attention and norms run freely.

    Features read the replacement model's own streams. MLP outputs of the prefix are the model's.
    ``errors=True`` adds what the dictionary missed on the original run, so that the original logits
    come back. Raises InputError and MismatchError as :func:`tl_attribution.attribute` does.
    """
    replaced = replacement_model(attach(model, dictionary), prompt, prefix)
    if not errors:
        return replaced.all_layers()
    host_run = replaced.host_run()
    active = [encode_columns(dictionary, layer, x) for layer, x in enumerate(host_run.read)]
    return replaced.all_layers(
        [
            out - reconstruct(dictionary, active, layer, host_run.read[layer], out)
            for layer, out in enumerate(host_run.written)
        ]
    )
