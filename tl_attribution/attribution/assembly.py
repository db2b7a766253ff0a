"""Put a graph together: nodes, measured pre-activations, influence, and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.attribution.problem import AttributionProblem
from tl_attribution.attribution.tracing import GraphTensors
from tl_attribution.graph.data import Answer, GraphMetadata
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import influence, normalize
from tl_attribution.graph.nodes import LEAF_LAYER, NodeTable

N_ANSWERS = 5
"""Likely next tokens that a graph's metadata names."""


def assemble(problem: AttributionProblem, tensors: GraphTensors, settings: dict[str, Any]) -> Graph:
    """The graph of these edges. All its tensors are on the CPU."""
    run, weights = problem.run, _target_weights(problem, tensors)
    tokens = run.host.token_strings(run.snapshot.token_ids.tolist())
    flows = influence(normalize(tensors.adjacency), weights)
    graph = Graph(
        nodes=_nodes(problem, tensors.expanded, tokens).with_influence(flows),
        adjacency=tensors.adjacency,
        constant=tensors.constant,
        preactivation=_preactivation(problem, tensors),
        target_weights=weights,
        metadata=_metadata(problem, tokens, settings),
        certificate=tensors.certificate,
    )
    return _certified(graph)


def _target_weights(problem: AttributionProblem, tensors: GraphTensors) -> Float[Tensor, " node"]:
    n_others = len(tensors.constant) - len(tensors.expanded) - len(problem.logits)
    features = problem.feature_weights[tensors.expanded]
    return torch.cat([features, features.new_zeros(n_others), problem.logit_weights]).cpu()


def _nodes(
    problem: AttributionProblem, expanded: Int[Tensor, " expanded"], tokens: tuple[str, ...]
) -> NodeTable:
    run = problem.run
    features = problem.local.features.select(expanded).to("cpu")
    n, n_layers = run.n_positions, run.n_layers
    layers = torch.arange(n_layers).repeat_interleave(n - run.prefix)
    positions = torch.arange(run.prefix, n).repeat(n_layers)
    everywhere, leaf = torch.arange(n), torch.full((n,), LEAF_LAYER)
    token_ids = run.snapshot.token_ids
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
        NodeTable.build("token", leaf, everywhere, token_ids, tokens),
    ]
    if run.snapshot.position_embedding is not None:
        labels = tuple(f"position {p}" for p in range(n))
        parts.append(NodeTable.build("position", leaf, everywhere, everywhere, labels))
    position, index = (
        torch.tensor([getattr(target, column) for target in problem.logits], dtype=torch.long)
        for column in ("position", "index")
    )
    labels = tuple(target.label for target in problem.logits)
    top = torch.full_like(position, n_layers)
    return NodeTable.concatenate([*parts, NodeTable.build("logit", top, position, index, labels)])


def _preactivation(problem: AttributionProblem, tensors: GraphTensors) -> Float[Tensor, " node"]:
    """Measured on the host: by the dictionary for features, from the final stream for logits."""
    local, n = problem.local, len(tensors.constant)
    out = local.errors.new_zeros(n)
    out[: len(tensors.expanded)] = local.features.preactivation[tensors.expanded]
    for row, target in enumerate(problem.logits, start=n - len(problem.logits)):
        x = problem.run.snapshot.read(target.layer, target.site)[target.position]
        out[row] = x @ target.vector + target.bias
    return out.cpu()


def _metadata(
    problem: AttributionProblem, tokens: tuple[str, ...], settings: dict[str, Any]
) -> GraphMetadata:
    run, host = problem.run, problem.run.host
    top = run.snapshot.logits[-1].softmax(-1).topk(min(N_ANSWERS, host.d_vocab))
    answers = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    answer = problem.answer
    n_prompt = len(tokens) if answer is None else answer.n_prompt
    return GraphMetadata(
        prompt="".join(tokens[run.prefix : n_prompt]),
        token_ids=tuple(run.snapshot.token_ids.tolist()),
        tokens=tokens,
        prefix=run.prefix,
        n_layers=run.n_layers,
        d_vocab=host.d_vocab,
        model=host.name,
        dictionary=run.dictionary.kind,
        answers=tuple(
            Answer(host.token_strings([token])[0], token, probability)
            for probability, token in answers
        ),
        settings=settings,
        answer="" if answer is None else "".join(host.token_strings(list(answer.token_ids))),
    )


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
