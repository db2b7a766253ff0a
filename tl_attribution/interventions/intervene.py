"""``intervene``: the same prompt with some features held at other values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.interventions.clamps import Clamps
from tl_attribution.interventions.edited_run import Mlps
from tl_attribution.interventions.intervention import Interventions
from tl_attribution.interventions.modes import (
    InterventionMode,
    Propagation,
    check_mode,
    run_rows,
)
from tl_attribution.interventions.resolve import prompt_clamps
from tl_attribution.replacement.prompt_run import PromptOrGraph, PromptRun, prepare
from tl_attribution.shapes import Activations, Logits, Streams

PASS_BYTES = 256 * 2**20
"""What one forward pass's largest tensors may take; more rows go into further passes."""


@dataclass(frozen=True, eq=False)
class InterventionResult:
    """A prompt's run with some features held at values.

    ``reads`` is what features read at every layer; ``original_logits`` and ``original_reads`` are
    those of the prompt's own run. Tensors are on the model's device.
    """

    logits: Logits
    reads: Streams
    original_logits: Logits
    original_reads: Streams
    propagation: Propagation
    prompt_run: PromptRun
    clamps: Clamps

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens."""
        return self.prompt_run.host.token_strings(self.prompt_run.snapshot.token_ids.tolist())

    @cached_property
    def activations(self) -> Activations:
        """Activations on this run, the changed features at the values that they are held at, zero
        at the prefix. Dense: see :meth:`preactivations` for some features of a wide dictionary."""
        activations = self.prompt_run.dictionary.encode(self.reads)
        activations[:, : self.prompt_run.prefix] = 0
        c = self.clamps
        activations[c.layer, c.position, c.feature] = c.values(c.original)
        return activations

    def preactivations(
        self,
        layer: Int[Tensor, " active"],
        position: Int[Tensor, " active"],
        index: Int[Tensor, " active"],
    ) -> Float[Tensor, " active"]:
        """Pre-activations of some features on this run. In ``direct`` mode a neuron's gate is
        frozen as on the original run, as a graph's edges have it."""
        gates = self.original_reads if self.propagation == "direct" else self.reads
        out = self.reads.new_zeros(len(layer))
        layer, position, index = (column.to(out.device) for column in (layer, position, index))
        for i in layer.unique().tolist():
            in_layer = layer == i
            read = self.prompt_run.dictionary.reads(
                i, gates[i], position[in_layer], index[in_layer]
            )
            x = self.reads[i, position[in_layer]]
            out[in_layer] = (read.vectors * x).sum(-1) + read.bias
        return out


def intervene(
    model: Any,
    prompt: PromptOrGraph | None = None,
    dictionary: Dictionary | None = None,
    interventions: Interventions = (),
    *,
    propagation: Propagation = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    mlps: Mlps = "model",
    prefix: int | None = None,
) -> InterventionResult:
    """Run a prompt with features held at values (methods paper, "Validating attribution graph
    hypotheses with interventions").

    ``prompt``: text, chat messages, token ids, or a graph of it. ``interventions``: one or several
    :class:`Intervention`, all made together. A feature of a cross-layer transcoder is changed in
    every layer that it writes to: by its decoder times (value − activation), so that its own
    contribution is replaced and never added to. ``propagation``, as in circuit-tracer's
    ``feature_intervention``:

    - ``direct``: attention patterns, norms and MLP outputs frozen (a linear skip stays a path), so
      that an effect is an edge of the graph times the relative change of its source;
    - ``constrained`` with ``layers=range(a, b)``: the change is written into those layers only,
      whose MLP outputs otherwise keep their original values; everything later is recomputed;
    - ``iterative``: every MLP is recomputed and the change is written wherever the features write.

    Attention patterns stay as they were unless ``freeze_attention=False`` (not with ``direct``).
    ``mlps`` says what a recomputed MLP is: the model's own (``"model"``; what a later MLP makes of
    a cross-layer feature's earlier writes then comes on top of its later ones), or
    ``"replacement"``: the dictionary's features recomputed, plus the error of the original run, so
    that each feature writes its value once and errors are kept. What :func:`tl_attribution.prepare`
    returned takes the place of model, prompt and dictionary.

    Raises InputError for a layer, feature, position or range that does not exist, a feature held in
    two ways, and modes that exclude each other; MismatchError for a dictionary or a graph of
    another model.
    """
    run = prepare(model, prompt, dictionary, prefix)
    mode = InterventionMode(propagation, layers, freeze_attention, mlps)
    return next(_checked_runs(run, [interventions], mode, None))


def intervene_each(
    model: Any,
    prompt: PromptOrGraph | None = None,
    dictionary: Dictionary | None = None,
    interventions: Sequence[Interventions] = (),
    *,
    propagation: Propagation = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    mlps: Mlps = "model",
    prefix: int | None = None,
    rows: int | None = None,
) -> Iterator[InterventionResult]:
    """:func:`intervene` for each of many interventions (or lists of them), in order, many in one
    forward pass: ``rows`` of them, or None for what fits 256 MiB.

    Everything is checked before the first run. Raises what :func:`intervene` does.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows must be at least 1, got {rows}")
    run = prepare(model, prompt, dictionary, prefix)
    mode = InterventionMode(propagation, layers, freeze_attention, mlps)
    return _checked_runs(run, interventions, mode, rows)


def _checked_runs(
    run: PromptRun, groups: Sequence[Interventions], mode: InterventionMode, rows: int | None
) -> Iterator[InterventionResult]:
    with torch.no_grad():
        clamps = prompt_clamps(run, groups)
        check_mode(run, mode, clamps)
    return edited_runs(run, clamps, len(groups), mode, rows)


def edited_runs(
    run: PromptRun, clamps: Clamps, total: int, mode: InterventionMode, rows: int | None = None
) -> Iterator[InterventionResult]:
    """Results of ``total`` rows of clamps, ``rows`` in one forward pass."""
    reads = torch.stack(run.reads)
    rows = rows or _rows_per_pass(run)
    for start in range(0, total, rows):
        n = min(rows, total - start)
        in_pass = clamps.select((clamps.row >= start) & (clamps.row < start + n))
        in_pass = replace(in_pass, row=in_pass.row - start)
        with torch.no_grad():
            edited = run_rows(run, in_pass, n, mode)
        for row in range(n):
            yield InterventionResult(
                logits=edited.logits[row],
                reads=edited.reads[row],
                original_logits=run.snapshot.logits,
                original_reads=reads,
                propagation=mode.propagation,
                prompt_run=run,
                clamps=in_pass.select(in_pass.row == row),
            )


def _rows_per_pass(run: PromptRun) -> int:
    host, n = run.host, run.n_positions
    heads = run.snapshot.blocks[0].attention.pattern.shape[0]
    widest = max(host.d_vocab, 8 * host.d_model, heads * n, (host.n_layers + 1) * host.d_model)
    return max(1, PASS_BYTES // (4 * n * widest))
