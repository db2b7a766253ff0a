"""Several contexts in one forward pass, their MLPs replaced in several ways at a time.

Contexts are padded on the right: attention is causal, so no token that counts sees the padding.
What is read, written and predicted is held of the tokens that count only, those of all contexts one
after the other: a context's prefix keeps the model's own MLP outputs, and padding is cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.hosts.opening import editable
from tl_attribution.hosts.prompt import resolve_prefix
from tl_attribution.replacement.prompt_run import AttachedDictionary
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.replacement.replacement_model import HostRun
from tl_attribution.shapes import StreamRows

PASS_BYTES = 256 * 2**20
"""What the largest tensors of one forward pass may take, and what is held of a batch besides its
logits; a batch has at least one context."""
CHUNK_TOKENS = 128
"""Tokens that are encoded and decoded at a time. The more tokens, the more features are active on
one of them, and each is decoded on all."""


@dataclass(frozen=True, eq=False)
class MlpReplacement:
    """What is written in place of the MLPs of ``layers``: ``output(layer, read, written)``, of the
    tokens that count."""

    layers: range
    output: Callable[
        [int, Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]],
        Float[Tensor, "token d_model"],
    ]


@dataclass(frozen=True, eq=False)
class ContextBatch:
    """Contexts of one model and dictionary; see :func:`batch_contexts`. ``index`` are the tokens
    that count, as indices into the flattened ``token_ids``; ``following`` the tokens after them,
    known where ``followed``: not after the end of a context."""

    attached: AttachedDictionary
    token_ids: Int[Tensor, "row position"]
    index: Int[Tensor, " token"]
    following: Int[Tensor, " token"]
    followed: Bool[Tensor, " token"]

    def __len__(self) -> int:
        return len(self.token_ids)

    def host_run(self) -> HostRun:
        """The model's own logits, and what its MLPs read and write, of the tokens that count."""
        read: list[Tensor] = []
        written: list[Tensor] = []

        def record(layer: int, x: Tensor, out: Tensor) -> Tensor:
            del layer
            read.append(x)
            written.append(out)
            return out

        every_layer = MlpReplacement(range(self.attached.dictionary.n_layers), record)
        return HostRun(next(self.replaced([every_layer])), read, written)

    def replaced(
        self, replacements: Sequence[MlpReplacement]
    ) -> Iterator[Float[Tensor, "token vocab"]]:
        """The logits of each replacement, all from one forward pass."""
        rows, index = len(self), self.index.to(self.attached.host.device)

        def edit(layer: int, x: StreamRows, out: StreamRows) -> StreamRows:
            edited = out.clone(memory_format=torch.contiguous_format)
            each = zip(replacements, x.split(rows), edited.split(rows), strict=True)
            for replacement, read, written in each:
                if layer in replacement.layers:
                    flat = written.flatten(0, 1)
                    flat[index] = replacement.output(layer, read.flatten(0, 1)[index], flat[index])
            return edited

        sites = self.attached.sites
        ids = self.token_ids.repeat(len(replacements), 1)
        with torch.no_grad():
            host = editable(sites.host)
            logits = host.run_edited(ids, sites.read_site, sites.write_site, edit)
        for of_replacement in logits.split(rows):
            yield of_replacement.flatten(0, 1)[index]


def batch_contexts(attached: AttachedDictionary, contexts: Sequence[Tensor]) -> ContextBatch:
    """Contexts, token ids of any lengths, as one batch. A BOS token at the front of one is its
    prefix."""
    width = max(map(len, contexts))
    ids = torch.zeros(len(contexts), width, dtype=torch.long)
    counts, followed = (torch.zeros(len(contexts), width, dtype=torch.bool) for _ in range(2))
    for row, context in enumerate(contexts):
        start, n = resolve_prefix(attached.host, context, None), len(context)
        ids[row, :n] = context
        counts[row, start:n] = True
        followed[row, start : n - 1] = True
    index = counts.flatten().nonzero().flatten()
    following = ids.roll(-1, 1).flatten()[index]
    return ContextBatch(attached, ids, index, following, followed.flatten()[index])


def contexts_per_batch(attached: AttachedDictionary, n_positions: int) -> int:
    """Contexts of ``n_positions`` tokens that fit :data:`PASS_BYTES`: their logits, or the streams
    and features of every layer if all features were active."""
    host, dictionary = attached.host, attached.dictionary
    of_layer = dictionary.n_features + 3 * host.d_model
    return _fitting(attached, n_positions * max(host.d_vocab, host.n_layers * of_layer))


def rows_per_pass(attached: AttachedDictionary, n_positions: int) -> int:
    """Rows of ``n_positions`` tokens whose logits fit :data:`PASS_BYTES`."""
    host = attached.host
    return _fitting(attached, n_positions * max(host.d_vocab, 8 * host.d_model))


def _fitting(attached: AttachedDictionary, numbers: int) -> int:
    return max(1, PASS_BYTES // (attached.host.compute_dtype.itemsize * numbers))


def token_chunks(n_tokens: int) -> Iterator[slice]:
    """Slices of at most :data:`CHUNK_TOKENS` tokens."""
    return (slice(start, start + CHUNK_TOKENS) for start in range(0, n_tokens, CHUNK_TOKENS))


def replace_all_layers(dictionary: Dictionary) -> MlpReplacement:
    """Every MLP's output is what features make of the replacement's own streams; for one run."""
    active: defaultdict[int, list[ActiveColumns]] = defaultdict(list)

    def output(layer: int, x: Tensor, out: Tensor) -> Tensor:
        result = torch.empty_like(out)
        for chunk in token_chunks(len(x)):
            kept = active[chunk.start]
            kept.append(encode_columns(dictionary, layer, x[chunk]))
            result[chunk] = reconstruct(dictionary, kept, layer, x[chunk], out[chunk])
        return result

    return MlpReplacement(range(dictionary.n_layers), output)


def replace_layer(layer: int, output: Float[Tensor, "token d_model"]) -> MlpReplacement:
    """``output`` is what the MLP of ``layer`` writes."""
    return MlpReplacement(range(layer, layer + 1), lambda i, x, out: output)


def ablate(layers: range) -> MlpReplacement:
    """Zero is what the MLPs of ``layers`` write."""
    return MlpReplacement(layers, lambda layer, x, out: torch.zeros_like(out))
