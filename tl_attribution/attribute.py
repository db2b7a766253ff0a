"""Model + prompt + dictionary → attribution graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tl_attribution import selection
from tl_attribution import targets as wanted
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.graph.graph import About, Answer, Certificate, Graph
from tl_attribution.graph.influence import influence, normalise
from tl_attribution.graph.nodes import LEAF_LAYER, NodeTable
from tl_attribution.replacement import local as replacement
from tl_attribution.replacement.active import check_fits
from tl_attribution.replacement.host import Host, host_for
from tl_attribution.replacement.local import LocalReplacementModel, Rows
from tl_attribution.replacement.oracle import Oracle
from tl_attribution.replacement.prompts import Prompt, compute_in_fp32, resolve_prefix, token_ids
from tl_attribution.replacement.sites import LOGITS, RESIDUAL
from tl_attribution.replacement.transport import Transport
from tl_attribution.targets import FeatureTarget, Resolved, Target

ENGINES = {"fast": Transport, "autograd": Oracle}
ANSWERS = 5

Progress = Callable[[int, int, str], None]
"""(done, in all, of what): called as long work goes on."""


def attribute(
    model: Any,
    prompt: Prompt,
    dictionary: Dictionary,
    *,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    targets: Sequence[Target] | Target | None = None,
    coverage: float | None = None,
    max_features: int | None = None,
    prefix: int | None = None,
    engine: str = "fast",
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of one prompt (methods paper, "Constructing an attribution graph").

    ``prompt``: text, token ids, or a one-dimensional tensor of ids. ``targets``: token strings or
    ids, or :class:`TokenTarget`, :class:`DifferenceTarget`, :class:`DirectionTarget`,
    :class:`FeatureTarget`; None takes the most likely next tokens, up to ``max_logits``, until
    ``logit_mass``. ``prefix``: leading positions that every prompt shares, whose features are not
    nodes; None asks the tokenizer (1 if the first token is BOS, else 0).

    By default every active feature is a node. ``coverage`` keeps at each layer the fewest features
    that hold this share of its influence, ``max_features`` the most influential; what the others
    contribute goes into ``graph.constant`` and ``graph.certificate`` bounds what they could change.
    ``engine="autograd"`` computes the same edges by automatic differentiation, slowly.

    Raises InputError, MismatchError (dictionary of another model), UnsupportedModelError,
    ProofError (the frozen model does not give back the host's activations) and TooLargeError.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    selection.check(coverage, max_features)
    with torch.no_grad():
        run = _prepare(model, prompt, dictionary, targets, (max_logits, logit_mass), prefix)
        made = ENGINES[engine](run.local)
        if coverage is None and max_features is None:
            parts = _everything(run, made, progress)
        else:
            parts = _some(run, made, coverage, max_features, progress)
    settings = {
        "max_logits": max_logits,
        "logit_mass": logit_mass,
        "coverage": coverage,
        "max_features": max_features,
        "engine": engine,
    }
    return _graph(run, parts, settings)


@dataclass(frozen=True, eq=False)
class _Run:
    host: Host
    local: LocalReplacementModel
    logits: list[Resolved]
    feature_weights: Tensor
    dictionary: Dictionary

    @property
    def logit_weights(self) -> Tensor:
        return torch.tensor([r.weight for r in self.logits]).to(self.local.errors)


@dataclass(frozen=True, eq=False)
class _Parts:
    """A graph's numbers: ``chosen`` rows of ``local.features``, on the model's device, are its
    features. The rest is on the processor: a graph may be larger than a device's memory."""

    chosen: Tensor
    adjacency: Tensor
    constant: Tensor
    certificate: Certificate


def _prepare(
    model: Any,
    prompt: Prompt,
    dictionary: Dictionary,
    targets: Sequence[Target] | Target | None,
    salient: tuple[int, float],
    prefix: int | None,
) -> _Run:
    host = host_for(compute_in_fp32(model))
    check_fits(host, dictionary)
    read_site = host.read_site(dictionary.feature_input_hook)
    write_site = host.write_site(dictionary.feature_output_hook)
    ids = token_ids(host, prompt)
    first = resolve_prefix(host, ids, prefix)
    snapshot = host.snapshot(ids)
    if targets is None:
        targets = wanted.salient(snapshot, *salient)
    logits, features = wanted.resolve(host, snapshot, targets)
    seen = 1 + max([r.position for r in logits] + [f.position for f in features])
    local = replacement.build(snapshot, dictionary, read_site, write_site, first, seen)
    local, weights = _feature_targets(local, features, any_logits=bool(logits))
    return _Run(host, local, logits, weights, dictionary)


def _feature_targets(
    local: LocalReplacementModel, wanted_features: list[FeatureTarget], *, any_logits: bool
) -> tuple[LocalReplacementModel, Tensor]:
    """Weights of the features to explain; without logits, features that cannot cause them go."""
    features = local.features
    weights = torch.zeros_like(features.activation)
    for target in wanted_features:
        match = (features.layer == target.layer) & (features.position == target.position)
        match &= features.index == target.index
        if not match.any():
            raise InputError(
                f"feature (layer {target.layer}, position {target.position}, index {target.index}) "
                "is not active on this prompt, or lies in the prefix; tla.features lists what is"
            )
        weights[match] += target.weight
    if any_logits:
        return local, weights
    keep = (features.layer < max(t.layer for t in wanted_features)) | (weights > 0)
    return replace(local, features=features.select(keep)), weights[keep]


def _logit_rows(run: _Run, engine: selection.Engine, out: Tensor) -> Tensor:
    """Fill ``out`` [target, source] and return the constants, in the order of ``run.logits``."""
    constant = out.new_zeros(len(run.logits))
    for site in (LOGITS, RESIDUAL):
        rows, readouts = wanted.readouts(run.logits, site)
        if readouts is not None:
            made = engine.rows(readouts)
            out[rows], constant[rows] = made.edges.to(out), made.constant.to(out)
    return constant


def _everything(run: _Run, engine: selection.Engine, progress: Progress | None) -> _Parts:
    local = run.local
    n, sources = len(local.features), local.n_sources
    total = sources + len(run.logits)
    selection.check_memory(total * total, n)
    adjacency = local.errors.new_zeros(total, total, device="cpu")
    constant = adjacency.new_zeros(total)
    constant[sources:] = _logit_rows(run, engine, adjacency[sources:, :sources])
    every = torch.arange(n, device=local.errors.device)
    if n:
        readouts = selection.feature_readouts(local, every)
        watch = None if progress is None else lambda done, of: progress(done, of, "features")
        made = engine.rows(readouts, out=adjacency[:n, :sources], progress=watch)
        constant[:n] = made.constant
    certificate = Certificate(n, n, 0.0, (0.0, 1.0), (0.0, 1.0))
    return _Parts(every, adjacency, constant, certificate)


def _some(
    run: _Run,
    engine: selection.Engine,
    coverage: float | None,
    max_features: int | None,
    progress: Progress | None,
) -> _Parts:
    local = run.local
    top = local.errors.new_zeros(len(run.logits), local.n_sources)
    top_constant = _logit_rows(run, engine, top)
    watch = None if progress is None else lambda done, of: progress(done, of, "features")
    growing = selection.Selection(
        engine, Rows(top, top_constant), run.logit_weights, run.feature_weights, watch
    )
    if max_features is None:
        growing.by_coverage(1.0 if coverage is None else coverage)
    else:
        growing.by_number(max_features, coverage)
    expanded = growing.finish()
    targets, sources = expanded.rows.edges.shape
    total = sources + len(run.logits)
    selection.check_memory(total * total, targets)
    adjacency = top.new_zeros(total, total, device="cpu")
    constant = adjacency.new_zeros(total)
    for made, rows in ((expanded.rows, slice(0, targets)), (expanded.top, slice(sources, total))):
        adjacency[rows, :sources] = made.edges
        constant[rows] = made.constant
    return _Parts(expanded.chosen, adjacency, constant, expanded.certificate)


def _nodes(run: _Run, chosen: Tensor, tokens: tuple[str, ...]) -> NodeTable:
    local, snapshot = run.local, run.local.snapshot
    features = local.features.select(chosen).to("cpu")
    n, later = local.n_positions, local.n_positions - local.prefix
    layers = torch.arange(local.n_layers).repeat_interleave(later)
    positions = torch.arange(local.prefix, n).repeat(local.n_layers)
    everywhere, leaf = torch.arange(n), torch.full((n,), LEAF_LAYER)
    parts = [
        NodeTable.build(
            "feature",
            features.layer,
            features.position,
            features.index,
            ("",) * len(features),
            features.activation,
        ),
        NodeTable.build("error", layers, positions, torch.zeros_like(layers), ("",) * len(layers)),
        NodeTable.build("token", leaf, everywhere, snapshot.token_ids, tokens),
    ]
    if snapshot.position_embedding is not None:
        labels = tuple(f"position {p}" for p in range(n))
        parts.append(NodeTable.build("position", leaf, everywhere, everywhere, labels))
    columns = [[r.position for r in run.logits], [r.index for r in run.logits]]
    at, index = (torch.tensor(column, dtype=torch.long) for column in columns)
    top = torch.full_like(at, local.n_layers)
    parts.append(NodeTable.build("logit", top, at, index, tuple(r.label for r in run.logits)))
    return NodeTable.concatenate(parts)


def _preactivation(run: _Run, chosen: Tensor, total: int) -> Tensor:
    """Measured on the host: by the dictionary for features, from the final stream for logits."""
    out = run.local.errors.new_zeros(total)
    out[: len(chosen)] = run.local.features.preactivation[chosen]
    for i, r in enumerate(run.logits):
        x = run.local.snapshot.read(r.layer, r.site)[r.position]
        out[total - len(run.logits) + i] = x @ r.vector + r.bias
    return out.cpu()


def _graph(run: _Run, parts: _Parts, settings: dict[str, Any]) -> Graph:
    local, host = run.local, run.host
    ids = local.snapshot.token_ids.tolist()
    tokens = host.token_strings(ids)
    total = len(parts.constant)
    weights = torch.cat(
        [
            run.feature_weights[parts.chosen],
            local.errors.new_zeros(total - len(parts.chosen) - len(run.logits)),
            run.logit_weights,
        ]
    ).cpu()
    flows = influence(normalise(parts.adjacency), weights)
    top = local.snapshot.logits[-1].softmax(-1).topk(min(ANSWERS, host.d_vocab))
    answers = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    graph = Graph(
        nodes=_nodes(run, parts.chosen, tokens).with_influence(flows),
        adjacency=parts.adjacency,
        constant=parts.constant,
        preactivation=_preactivation(run, parts.chosen, total),
        target_weights=weights,
        about=About(
            prompt="".join(tokens[local.prefix :]),
            token_ids=tuple(ids),
            tokens=tokens,
            prefix=local.prefix,
            n_layers=local.n_layers,
            d_vocab=host.d_vocab,
            model=host.name,
            dictionary=run.dictionary.kind,
            answers=tuple(Answer(host.token_strings([t])[0], t, p) for p, t in answers),
            settings=settings,
        ),
        certificate=parts.certificate,
    )
    return _certified(graph)


def _certified(graph: Graph) -> Graph:
    """A graph of all active features leaves nothing out: its bounds are its own scores."""
    if graph.certificate.expanded < graph.certificate.active:
        return graph
    scores = graph.scores()
    exact = graph.certificate._replace(
        unexpanded_influence=0.0,
        replacement=(scores.replacement,) * 2,
        completeness=(scores.completeness,) * 2,
    )
    return replace(graph, certificate=exact)
