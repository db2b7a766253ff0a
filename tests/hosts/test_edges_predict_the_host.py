"""An edge predicts the host: with everything frozen by the host's hooks, changing what a source
writes changes what a target reads by the edge's weight. No attribution code is used."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.models import FAMILIES, MAJOR, RAW_HOSTS, tiny
from tests.random_dictionaries import KINDS
from tl_attribution.attribution.attribute import attribute
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.nodes import Node

PROMPT = [1, 9, 20, 33, 9, 41]

pytestmark = [
    pytest.mark.hosts,
    # What the test does on purpose.
    pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale:UserWarning"),
]


def _frozen_run(model: Any, extra: dict[tuple[str, int], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run the host with patterns, norm denominators and MLP outputs frozen at the prompt's values,
    plus ``extra[hook, position]`` added to what is written there."""
    ids = torch.tensor([PROMPT])
    _, cache = model.run_with_cache(ids)
    frozen = [
        name
        for name in cache
        if name.endswith(("attn.hook_pattern", ".hook_scale", "hook_mlp_out"))
        and "q_norm" not in name
        and "k_norm" not in name
    ]

    def freeze(name: str) -> Any:
        def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
            out = cache[name].clone()
            for (written, position), vector in extra.items():
                if written == name:
                    out[0, position] += vector
            return out

        return hook

    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        for (written, position), vector in extra.items():
            if written == "embedding":
                value = value.clone()
                value[0, position] += vector
        return value

    read: dict[str, torch.Tensor] = {}

    def capture(name: str, norm: Any) -> Any:
        def hook(value: torch.Tensor, hook: Any) -> None:
            read[name] = _before_weight(norm, value[0].detach().clone())

        return hook

    reads = {f"blocks.{i}.ln2.hook_normalized": block.ln2 for i, block in enumerate(model.blocks)}
    reads["ln_final.hook_normalized"] = model.ln_final
    hooks = [(name, freeze(name)) for name in frozen]
    hooks.append(("blocks.0.hook_resid_pre", add))
    hooks += [(name, capture(name, norm)) for name, norm in reads.items()]
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=hooks)
    return read


def _before_weight(norm: Any, hooked: torch.Tensor) -> torch.Tensor:
    """transformer-lens 2 hooks a LayerNorm after its weight and bias."""
    if MAJOR >= 3 or getattr(norm, "b", None) is None:
        return hooked
    return (hooked - norm.b) / norm.w


def _written(
    model: Any, graph: Graph, dictionary: Dictionary, node: Node
) -> dict[tuple[str, int], torch.Tensor]:
    """Compute what a node writes by encode and decode on the host's activations."""
    ids = torch.tensor([PROMPT])
    _, cache = model.run_with_cache(ids)
    if node.kind in ("token", "position"):
        pos = cache["hook_pos_embed"][0] if "hook_pos_embed" in cache else 0.0
        token = cache["blocks.0.hook_resid_pre"][0] - pos
        whole = token if node.kind == "token" else cache["hook_pos_embed"][0]
        return {("embedding", node.position): whole[node.position]}
    normalized = torch.stack(
        [
            _before_weight(block.ln2, cache[f"blocks.{i}.ln2.hook_normalized"][0])
            for i, block in enumerate(model.blocks)
        ]
    )
    acts = dictionary.encode(normalized)
    out = torch.stack([cache[f"blocks.{i}.hook_mlp_out"][0] for i in range(dictionary.n_layers)])
    if node.kind == "error":
        error = out - dictionary.decode(acts, normalized)
        return {
            (f"blocks.{node.layer}.hook_mlp_out", node.position): error[node.layer, node.position]
        }
    alone = torch.zeros_like(acts)
    alone[node.layer, node.position, node.index] = acts[node.layer, node.position, node.index]
    bias = dictionary.decode(torch.zeros_like(acts))
    writes = dictionary.decode(alone) - bias
    return {
        (f"blocks.{layer}.hook_mlp_out", node.position): writes[layer, node.position]
        for layer in range(dictionary.n_layers)
    }


@torch.no_grad()
@pytest.mark.parametrize("host", RAW_HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_doubling_a_source_moves_each_target_by_its_edge(family: str, host: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS["clt-normalized-no-skip"](model)
    graph = attribute(model, PROMPT, dictionary)
    before = _frozen_run(model, {})
    sampler = random.Random(0)
    rows = graph.is_target.nonzero().flatten().tolist()
    nodes = list(graph.nodes)
    unembed = model.W_U.detach().double()
    for kind in {n.kind for n in nodes} - {"logit"}:
        for source in sampler.sample([i for i, n in enumerate(nodes) if n.kind == kind], 3):
            after = _frozen_run(model, _written(model, graph, dictionary, nodes[source]))
            for target in rows:
                node = nodes[target]
                change = _change(model, dictionary, unembed, node, before, after)
                edge = float(graph.adjacency[target, source])
                size = float(graph.adjacency[target].abs().max())
                assert change == pytest.approx(edge, rel=1e-3, abs=1e-4 * size), (kind, node)


def _change(
    model: Any,
    dictionary: Dictionary,
    unembed: torch.Tensor,
    node: Node,
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
) -> float:
    if node.kind == "feature":
        name = f"blocks.{node.layer}.ln2.hook_normalized"
        both = [dictionary.encode_layer(node.layer, x[name]).preactivation for x in (after, before)]
        return float((both[0] - both[1])[node.position, node.index])
    moved = after["ln_final.hook_normalized"] - before["ln_final.hook_normalized"]
    norm = model.ln_final
    weight = getattr(norm, "w", None) if hasattr(norm, "w") else None
    weight = norm.weight if weight is None else weight
    if getattr(model.cfg, "rmsnorm_uses_offset", False) and hasattr(norm, "original_component"):
        weight = weight + 1
    vector = unembed[:, node.index] - unembed.mean(1)
    return float((moved[node.position] * weight).double() @ vector)
