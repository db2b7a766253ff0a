"""What an intervention does, in every mode, on every family and dictionary kind: direct effects are
the graph's edges, and the other modes are what a slow run written with dense activations gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import FAMILIES, HOSTS, N_LAYERS, tiny
from tests.random_dictionaries import KINDS
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.graph.graph import Graph
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.registry import host_for

PROMPT = [1, 9, 20, 33, 9, 41]
CASES = [
    (family, HOSTS[(i + j) % len(HOSTS)], kind)
    for i, family in enumerate(FAMILIES)
    for j, kind in enumerate(KINDS)
]
"""Every family with every kind, on one host after the other."""
THIRD = CASES[::3]
"""Every family and every kind, some of them together: these runs take a second each."""
pytestmark = pytest.mark.hosts


def close(found: torch.Tensor, expected: torch.Tensor, within: float = 1e-4) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) <= within


def drawn(graph: Graph, n: int = 2) -> list[int]:
    """Rows of some features, spread over the graph."""
    rows = graph.nodes.is_kind("feature").nonzero().flatten().tolist()
    return rows[:: max(1, len(rows) // n)]


def uncapped(model: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    return cap * torch.atanh(logits.double() / cap) if cap and cap > 0 else logits


def assert_direct_effects_are_edges(model: Any, dictionary: Dictionary) -> None:
    graph = tla.attribute(model, PROMPT, dictionary)
    # A write with an offset is not proportional to the activation, but all of it can be taken away.
    offsets = isinstance(dictionary, Transcoder) and dictionary.layers[0].offset is not None
    rows, factors = drawn(graph), (0.0,) if offsets else (2.0, -1.5)
    groups = [tla.supernode([graph.nodes[r]], f) for r in rows for f in factors]
    features = graph.nodes.is_kind("feature")
    columns = [getattr(graph.nodes, c)[features] for c in ("layer", "position", "index")]
    logits = [n.index for n in graph.nodes if n.kind == "logit"]
    size = graph.adjacency[graph.is_target].abs().amax(1)
    runs = tla.intervene_each(model, graph, dictionary, groups, propagation="direct")
    for (row, factor), run in zip([(r, f) for r in rows for f in factors], runs, strict=True):
        made = run.preactivations(*columns) - graph.preactivation[features]
        moved = uncapped(model, run.logits[-1]) - uncapped(model, run.original_logits[-1])
        made = torch.cat([made, (moved - moved.mean())[logits]])
        edges = (factor - 1) * graph.adjacency[graph.is_target, row]
        assert float(((made - edges).abs() / size).max()) <= 1e-3
        strong = edges.abs() > 0.05 * size
        assert torch.allclose(made[strong].float(), edges[strong], rtol=1e-3)


@pytest.mark.parametrize(("family", "host", "kind"), CASES)
def test_direct_effects_are_edges(family: str, host: str, kind: str) -> None:
    model = tiny(family, host)
    assert_direct_effects_are_edges(model, KINDS[kind](model))


class Slow:
    """One run at a time, dense, with the host's hooks: nothing of the fast path but the sites."""

    def __init__(self, model: Any, dictionary: Dictionary, changes: dict[Any, float]) -> None:
        self.model, self.dictionary, self.changes = model, dictionary, changes
        self.host: Host = host_for(model)
        self.read = self.host.read_site(dictionary.feature_input_hook)
        self.write = self.host.write_site(dictionary.feature_output_hook)
        self.x, self.y = self.original()

    def original(self) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = self.host.read_mlps(torch.tensor([PROMPT]), self.read, self.write)
        return pairs.inputs[0].transpose(0, 1), pairs.outputs[0].transpose(0, 1)

    def held(self, layer: int, acts: torch.Tensor) -> torch.Tensor:
        """The activations of a layer with its changed features set."""
        out = acts.clone()
        for (at, position, index), value in self.changes.items():
            if at == layer:
                out[position, index] = value
        return out

    def logits(self, replace: Callable[..., torch.Tensor], frozen: bool) -> torch.Tensor:
        with self.patterns() if frozen else nullcontext():
            return self.host.run_replacing_mlps(
                torch.tensor([PROMPT]).flatten(), self.read, self.write, replace
            )

    def patterns(self) -> Any:
        names = [f"blocks.{i}.attn.hook_pattern" for i in range(N_LAYERS)]
        _, cache = self.model.run_with_cache(torch.tensor([PROMPT]))
        return self.model.hooks(
            fwd_hooks=[(name, lambda _, hook, name=name: cache[name]) for name in names]
        )

    def decoded(self, acts: list[torch.Tensor], x: list[torch.Tensor], layer: int) -> torch.Tensor:
        """The dictionary's output at a layer, from activations and inputs of those up to it."""
        n = self.dictionary.n_layers - len(acts)
        filled = torch.stack(acts + [torch.zeros_like(acts[0])] * n)
        seen = torch.stack(x + [torch.zeros_like(x[0])] * n)
        return self.dictionary.decode(filled, seen)[layer]

    def iterative(self, frozen: bool) -> torch.Tensor:
        acts, held, seen = [], [], []

        def replace(layer: int, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            acts.append(self.dictionary.encode_layer(layer, x).activation)
            held.append(self.held(layer, acts[-1]))
            return out + self.decoded(held, seen, layer) - self.decoded(acts, seen, layer)

        return self.logits(replace, frozen)

    def constrained(self, layers: range, frozen: bool) -> torch.Tensor:
        xs = list(self.x)
        acts = [self.dictionary.encode_layer(i, x).activation for i, x in enumerate(xs)]
        held = [self.held(i, a) for i, a in enumerate(acts)]

        def replace(layer: int, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            if layer not in layers:
                return out
            now = [*xs[:layer], x, *xs[layer + 1 :]]
            return self.y[layer] + self.decoded(held, now, layer) - self.decoded(acts, xs, layer)

        return self.logits(replace, frozen)

    def replacement(self, frozen: bool) -> torch.Tensor:
        xs = list(self.x)
        acts = [self.dictionary.encode_layer(i, x).activation for i, x in enumerate(xs)]
        held, seen = [], []

        def replace(layer: int, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            held.append(self.held(layer, self.dictionary.encode_layer(layer, x).activation))
            error = self.y[layer] - self.decoded(acts, xs, layer)
            return torch.cat([out[:1], (self.decoded(held, seen, layer) + error)[1:]])

        return self.logits(replace, frozen)


def changes(dictionary: Dictionary) -> dict[Any, float]:
    """Four features of two layers, two of them at one position; what is active does not matter."""
    last = dictionary.n_features - 1
    return {(0, 2, 1): 1.5, (0, 2, last): -0.7, (1, 4, 3): 0.0, (1, 5, 0): 2.0}


@pytest.mark.parametrize(("family", "host", "kind"), THIRD)
def test_every_mode_is_what_a_slow_run_gives(family: str, host: str, kind: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS[kind](model)
    slow = Slow(model, dictionary, changes(dictionary))
    wanted = [tla.Intervention(*at, value) for at, value in slow.changes.items()]
    between = [tla.Intervention(0, 1, 0, 9.0)]
    found: list[torch.Tensor] = []
    cross = len(dictionary.written_layers(0)) > 1

    def logits(**mode: Any) -> torch.Tensor:
        runs = list(tla.intervene_each(model, PROMPT, dictionary, [between, wanted, []], **mode))
        close(runs[2].logits, runs[2].original_logits)
        found.append(runs[1].logits)
        return runs[1].logits

    close(logits(), slow.iterative(frozen=True))
    close(logits(freeze_attention=False), slow.iterative(frozen=False))
    close(logits(mlps="replacement"), slow.replacement(frozen=True))
    for layers, frozen in ((range(0, 2), True), (range(cross, N_LAYERS), False)):
        mode = {"propagation": "constrained", "layers": layers, "freeze_attention": frozen}
        close(logits(**mode), slow.constrained(layers, frozen))
    different = [(a - b).abs().max() for i, a in enumerate(found) for b in found[:i]]
    assert kind == "neurons" or min(different) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_replace_the_mlps_exactly(family: str) -> None:
    model = tiny(family, HOSTS[-1])
    dictionary = tla.neurons(model)
    wanted = [tla.Intervention(0, 2, 5, 1.0), tla.Intervention.scale(1, slice(3, None), 7, -1.0)]
    both = [
        tla.intervene(model, PROMPT, dictionary, wanted, mlps=m) for m in ("model", "replacement")
    ]
    close(both[0].logits, both[1].logits)
    assert float((both[0].logits - both[0].original_logits).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["clt-jumprelu", "clt-raw-write", "per-layer-skip", "neurons"])
def test_a_feature_at_its_own_value_changes_nothing(kind: str) -> None:
    model = tiny("gpt2", HOSTS[0])
    dictionary = KINDS[kind](model)
    graph = tla.attribute(model, PROMPT, dictionary)
    same = [
        [tla.Intervention(*node[1:4], node.activation), tla.Intervention.scale(*node[1:4], 1.0)][
            i % 2
        ]
        for i, node in enumerate(graph.nodes)
        if node.kind == "feature"
    ]
    constrained: dict[str, Any] = {"propagation": "constrained", "layers": range(3)}
    for mode in ({"propagation": "direct"}, {}, constrained):
        run = tla.intervene(model, graph, dictionary, same, **mode)
        close(run.logits, run.original_logits)


@pytest.mark.parametrize("kind", ["clt-relu", "clt-window", "neurons"])
def test_activations_hold_the_values_and_what_follows(kind: str) -> None:
    model = tiny("llama", HOSTS[0])
    dictionary = KINDS[kind](model)
    graph = tla.attribute(model, PROMPT, dictionary)
    node = next(n for n in graph.nodes if n.kind == "feature" and n.position == 2)
    before = tla.intervene(model, graph, dictionary, []).activations
    rows = graph.nodes.is_kind("feature")
    at = tuple(getattr(graph.nodes, c)[rows] for c in ("layer", "position", "index"))
    assert torch.allclose(before[at], graph.nodes.activation[rows], atol=1e-4)
    assert not before[:, 0].any()
    run = tla.intervene(model, graph, dictionary, tla.Intervention.add(*node[1:4], 4.0))
    assert float(run.activations[node[1:4]]) == pytest.approx(node.activation + 4, rel=1e-5)
    moved = (run.activations - before).abs().amax(-1)
    assert float(moved[0].max()) == pytest.approx(4.0, rel=1e-4)
    assert float(moved[:, :2].max()) < 1e-4
    assert float(moved[1:, 2:].max()) > 1e-3
    again = run.preactivations(*at)
    assert torch.allclose(again[at[0] == 0], graph.preactivation[rows][at[0] == 0], atol=1e-4)


def test_positions_are_spans_lists_and_counted_from_the_end() -> None:
    model = tiny("gpt2", HOSTS[0])
    dictionary = KINDS["clt-relu"](model)
    ways = [
        slice(None),
        slice(1, 6),
        range(1, 6),
        (1, 2, 3, 4, -1),
        slice(-5, None),
        (1, 1, 2, 3, 4, 5),
    ]
    groups = [tla.Intervention(1, way, 3, 2.0) for way in ways]
    runs = list(tla.intervene_each(model, PROMPT, dictionary, groups, rows=4))
    one_by_one = [tla.Intervention(1, p, 3, 2.0) for p in range(1, 6)]
    expected = tla.intervene(model, PROMPT, dictionary, one_by_one).logits
    assert len(runs) == len(ways)
    for run in runs:
        close(run.logits, expected, 1e-5)
