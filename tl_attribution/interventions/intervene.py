"""The same prompt with some features held at other values: does the model do what a graph says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.graph import Graph
from tl_attribution.hosts.prompt import Prompt, compute_in_fp32, resolve_prefix, token_ids
from tl_attribution.hosts.protocols import Host, host_for
from tl_attribution.interventions import edited_run
from tl_attribution.interventions.clamps import Clamps, activations_at
from tl_attribution.interventions.edited_run import EditedRun, Edits, PromptRun
from tl_attribution.interventions.intervention import Interventions, at_prompt
from tl_attribution.replacement.active_features import check_fits
from tl_attribution.replacement.replacement_model import Logits
from tl_attribution.shapes import Activations, Streams

PROPAGATIONS = ("direct", "constrained", "iterative")
MLPS = ("model", "replacement")

PromptOrGraph = Union[Prompt, Graph]  # noqa: UP007  # evaluated on 3.10
"""A prompt, or a graph of it: then the prefix is the graph's."""

PASS_BYTES = 256 * 2**20
"""What one forward pass's largest tensors may take; more rows go into further passes."""
SAME_ACTIVATION = 1e-2
"""How far a graph's activations may be from those found now, relative to the largest."""


class InterventionMode(NamedTuple):
    """How a change spreads: see :func:`intervene`."""

    propagation: str = "iterative"
    layers: range | None = None
    freeze_attention: bool = True
    mlps: str = "model"


@dataclass(frozen=True, eq=False)
class InterventionResult:
    """A prompt's run with some features held at values.

    ``reads`` is what features read at every layer; ``original_logits`` and ``original_reads`` are
    those of the prompt's own run.
    """

    logits: Logits
    reads: Streams
    original_logits: Logits
    original_reads: Streams
    propagation: str
    original: PromptRun
    clamps: Clamps

    @property
    def host(self) -> Host:
        """The model, as it was run."""
        return self.original.host

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens."""
        return self.host.token_strings(self.original.snapshot.token_ids.tolist())

    @cached_property
    def activations(self) -> Activations:
        """Activations on this run, the changed features at the values that they are held at, zero
        at the prefix. Dense: see :meth:`preactivations` for some features of a wide dictionary."""
        found = self.original.dictionary.encode(self.reads)
        found[:, : self.original.prefix] = 0
        c = self.clamps
        at = (c.layer, c.position, c.feature)
        found[at] = c.values(c.original)
        return found

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
        for at in layer.unique().tolist():
            here = layer == at
            read = self.original.dictionary.reads(at, gates[at], position[here], index[here])
            out[here] = (read.vectors * self.reads[at, position[here]]).sum(-1) + read.bias
        return out


def intervene(
    model: Any,
    prompt: PromptOrGraph,
    dictionary: Dictionary,
    interventions: Interventions,
    *,
    propagation: str = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    mlps: str = "model",
    prefix: int | None = None,
) -> InterventionResult:
    """Run a prompt with features held at values (methods paper, "Validating attribution graph
    hypotheses with interventions").

    ``prompt``: text, token ids, or a graph of it. ``interventions``: one or several
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
    that each feature writes its value once and errors are kept.

    Raises InputError for a layer, feature, position or range that does not exist, a feature held in
    two ways, and modes that exclude each other; MismatchError for a dictionary or a graph of
    another model.
    """
    mode = InterventionMode(propagation, layers, freeze_attention, mlps)
    return next(_prepared(model, prompt, dictionary, [interventions], mode, prefix, None))


def intervene_each(
    model: Any,
    prompt: PromptOrGraph,
    dictionary: Dictionary,
    interventions: Sequence[Interventions],
    *,
    propagation: str = "iterative",
    layers: range | None = None,
    freeze_attention: bool = True,
    mlps: str = "model",
    prefix: int | None = None,
    rows: int | None = None,
) -> Iterator[InterventionResult]:
    """:func:`intervene` for each of many interventions (or lists of them), in order, many in one
    forward pass: ``rows`` of them, or None for what fits 256 MiB.

    Everything is checked before the first run. Raises what :func:`intervene` does.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows must be at least 1, got {rows}")
    mode = InterventionMode(propagation, layers, freeze_attention, mlps)
    return _prepared(model, prompt, dictionary, interventions, mode, prefix, rows)


def _prepared(
    model: Any,
    prompt: PromptOrGraph,
    dictionary: Dictionary,
    groups: Sequence[Interventions],
    mode: InterventionMode,
    prefix: int | None,
    rows: int | None,
) -> Iterator[InterventionResult]:
    host = host_for(compute_in_fp32(model))
    with torch.no_grad():
        original = original_run(host, prompt, dictionary, prefix)
        clamps = at_prompt(original, groups)
        check_mode(original, mode, clamps)
    return runs(original, clamps, len(groups), mode, rows)


def original_run(
    host: Host, prompt: PromptOrGraph, dictionary: Dictionary, prefix: int | None
) -> PromptRun:
    """A prompt's own run. Raises MismatchError if a graph is not of this model and dictionary, and
    what :func:`tl_attribution.attribute` raises."""
    check_fits(host, dictionary)
    if not isinstance(prompt, Graph):
        ids = token_ids(host, prompt)
        return PromptRun(host, dictionary, host.snapshot(ids), resolve_prefix(host, ids, prefix))
    _check_graph(host, dictionary, prompt, prefix)
    snapshot = host.snapshot(token_ids(host, list(prompt.metadata.token_ids)))
    original = PromptRun(host, dictionary, snapshot, prompt.metadata.prefix)
    _check_activations(original, prompt)
    return original


def _check_graph(host: Host, dictionary: Dictionary, graph: Graph, prefix: int | None) -> None:
    about = graph.metadata
    if prefix is not None and prefix != about.prefix:
        raise InputError(f"prefix={prefix}, but the graph's prefix is {about.prefix}; leave it out")
    for what, its, ours in (
        ("model", about.model, host.name),
        ("number of layers", about.n_layers, host.n_layers),
        ("vocabulary", about.d_vocab, host.d_vocab),
        ("kind of dictionary", about.dictionary, dictionary.kind),
    ):
        if its != ours:
            raise MismatchError(
                f"the graph is of another {what}: {its!r}, not {ours!r}; give the model and the "
                "dictionary that it was traced with"
            )


def _check_activations(original: PromptRun, graph: Graph) -> None:
    """A graph's features must be active as it says, or it is of other weights."""
    rows = graph.nodes.is_kind("feature").nonzero().flatten()
    layer, position, index = (getattr(graph.nodes, c)[rows] for c in ("layer", "position", "index"))
    its, dictionary = graph.nodes.activation[rows], original.dictionary
    known = not len(rows) or int(index.max()) < dictionary.n_features
    found = torch.zeros_like(its)
    for at in layer.unique().tolist() if known else ():
        here = layer == at
        columns = torch.zeros_like(position[here]), position[here], index[here]
        x = original.reads[at][None]
        found[here] = activations_at(dictionary, at, x, *(c.to(x.device) for c in columns)).to(its)
    size = its.abs().max() if len(rows) else torch.ones(())
    if not known or bool(((found - its).abs() > SAME_ACTIVATION * size).any()):
        raise MismatchError(
            "the graph's features are not active on its prompt as it says, so it was traced with "
            "other weights of the model or the dictionary; trace the prompt again"
        )


def check_mode(original: PromptRun, mode: InterventionMode, clamps: Clamps) -> None:
    """Raise InputError for modes that do not exist or exclude each other, and for a range outside
    the model or that a changed feature does not write to."""
    n = len(original.snapshot.blocks)
    for name, value, known in (
        ("propagation", mode.propagation, PROPAGATIONS),
        ("mlps", mode.mlps, MLPS),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if mode.propagation == "direct" and not mode.freeze_attention:
        raise InputError("direct effects are those with attention frozen; use 'iterative'")
    if mode.propagation == "direct" and mode.mlps != "model":
        raise InputError("direct effects recompute no MLP; leave mlps out, or use 'iterative'")
    if (mode.propagation == "constrained") != (mode.layers is not None):
        raise InputError("propagation='constrained' and layers=range(a, b) go together")
    if mode.layers is None:
        return
    given = mode.layers
    if not isinstance(given, range) or given.step != 1 or not 0 <= given.start < given.stop <= n:
        raise InputError(f"layers must be range(a, b) with 0 <= a < b <= {n}, got {given!r}")
    for layer in clamps.layer.unique().tolist():
        if not set(original.dictionary.written_layers(layer)) & set(given):
            raise InputError(f"features of layer {layer} write to no layer of {given}")


def rows_of_a_pass(original: PromptRun) -> int:
    """How many runs go through the host at once."""
    host, n = original.host, original.n_positions
    heads = original.snapshot.blocks[0].attention.pattern.shape[0]
    widest = max(host.d_vocab, 8 * host.d_model, heads * n, (host.n_layers + 1) * host.d_model)
    return max(1, PASS_BYTES // (4 * n * widest))


def run(
    original: PromptRun, clamps: Clamps, rows: int, mode: InterventionMode, cache: Any = None
) -> EditedRun:
    """So many rows in one forward pass."""
    if mode.propagation == "direct":
        return edited_run.direct(original, clamps, rows)
    ids = original.snapshot.token_ids.expand(rows, -1)
    edits = Edits(original, clamps, mode.layers, mode.mlps)
    return edited_run.on_host(edits, ids, frozen=mode.freeze_attention, cache=cache)


def runs(
    original: PromptRun, clamps: Clamps, total: int, mode: InterventionMode, rows: int | None = None
) -> Iterator[InterventionResult]:
    """What was prepared and checked, ``rows`` in one pass."""
    reads = torch.stack(original.reads)
    rows = rows or rows_of_a_pass(original)
    for start in range(0, total, rows):
        n = min(rows, total - start)
        here = clamps.select((clamps.row >= start) & (clamps.row < start + n))
        here.row.sub_(start)
        with torch.no_grad():
            made = run(original, here, n, mode)
        for row in range(n):
            yield InterventionResult(
                logits=made.logits[row],
                reads=made.reads[row],
                original_logits=original.snapshot.logits,
                original_reads=reads,
                propagation=mode.propagation,
                original=original,
                clamps=here.select(here.row == row),
            )
