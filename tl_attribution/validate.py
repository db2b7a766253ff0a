"""Does a graph predict the model? Its nodes are ablated and the model says what that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.attribute import Progress
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import normalise
from tl_attribution.graph.nodes import Node
from tl_attribution.graph.paths import is_pruned
from tl_attribution.intervene import Intervened, Mode, original_run, runs
from tl_attribution.interventions import Intervention, at_prompt, supernode
from tl_attribution.measures import spearman
from tl_attribution.replacement.edited import Original
from tl_attribution.replacement.host import host_for
from tl_attribution.replacement.prompts import compute_in_fp32
from tl_attribution.validation import (
    Curve,
    Direct,
    LayerFaithfulness,
    Ranking,
    Tested,
    Validation,
)

Member = Union[Node, tuple[int, int, int]]  # noqa: UP007  # evaluated on Python 3.10
"""A feature of a supernode: a node, or (layer, position, index)."""
DRAWS = 5
"""Random orders that stand for chance."""
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def validate(
    graph: Graph,
    model: Any,
    dictionary: Dictionary,
    *,
    supernodes: Sequence[Sequence[Member]] = (),
    max_features: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Validation:
    """Test a graph's predictions on the model that it explains (methods paper, "Evaluating
    attribution graphs").

    ``max_features`` feature nodes are ablated one by one: the most influential half, and others
    drawn with ``seed``; ``supernodes`` (lists of feature nodes, or (layer, position, index)) each
    as a whole. Measured are:

    - direct effects on every feature and answer of the graph, against its edges;
    - the effect on the answers and on later features when all MLPs are the model's own and
      attention stays frozen, as a rank correlation with influence, beside activation and chance;
    - the same for the first features of each ranking ablated together;
    - layer by layer, how the model responds when a feature's own write is removed, against how
      the local replacement model does.

    Raises InputError if nothing can be tested, and MismatchError if the graph is not of this model
    and dictionary.
    """
    if max_features < 1:
        raise InputError(f"max_features must be at least 1, got {max_features}")
    watch: Progress = progress or (lambda done, total, what: None)
    with torch.no_grad():
        original = original_run(host_for(compute_in_fp32(model)), graph, dictionary, None)
        test = _Test(graph, original, _targets(graph))
        single = [_Ablation(graph, [row]) for row in _chosen(graph, max_features, seed).tolist()]
        grouped = [_Ablation(graph, _rows(graph, one)) for one in supernodes]
        return _validated(test, single, grouped, seed, watch)


def _validated(
    test: _Test,
    single: list[_Ablation],
    grouped: list[_Ablation],
    seed: int,
    watch: Progress,
) -> Validation:
    graph, n = test.graph, len(single)
    watch(0, 4, "direct effects")
    direct = test.direct(single + grouped)
    watch(1, 4, "knock-on effects")
    changes = test.measure(single + grouped, Mode())
    effects = test.on_targets(changes).tolist()
    tested = tuple(a.tested(e) for a, e in zip(single + grouped, effects, strict=True))
    later = test.later(single, changes[:n])
    watch(2, 4, "rankings")
    curve = test.curve(seed)
    watch(3, 4, "layers")
    layers = test.layers(single)
    watch(4, 4, "layers")
    return Validation(
        model=graph.about.model,
        dictionary=graph.about.dictionary,
        prompt=graph.about.prompt,
        features=int(graph.nodes.is_kind("feature").sum()),
        direct=direct,
        tested=tested[:n],
        supernodes=tested[n:],
        ranking=_ranking(tested[:n], later, seed),
        curve=curve,
        layers=layers,
    )


def _targets(graph: Graph) -> Int[Tensor, " target"]:
    """Rows that are explained and can be measured: tokens of the vocabulary, and features."""
    nodes = graph.nodes
    known = nodes.is_kind("feature") | (
        nodes.is_kind("logit") & (nodes.index < graph.about.d_vocab)
    )
    rows = (known & (graph.target_weights > 0)).nonzero().flatten()
    if not len(rows):
        raise InputError(
            "this graph explains no token and no feature, but differences or directions, which a "
            "graph does not hold; trace the tokens themselves to validate"
        )
    return rows


def _chosen(graph: Graph, n: int, seed: int) -> Int[Tensor, " tested"]:
    """The most influential features, and some of the others, in the graph's order. Features that
    are explained themselves are left out."""
    free = graph.nodes.is_kind("feature") & (graph.target_weights == 0)
    rows = free.nonzero().flatten()
    if not len(rows):
        raise InputError(
            "this graph has no feature to ablate; trace with a dictionary that has some"
        )
    rows = rows[graph.nodes.influence[rows].argsort(descending=True, stable=True)]
    first = min((n + 1) // 2, len(rows))
    others = rows[first:]
    drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return torch.cat([rows[:first], others[drawn[: n - first]]]).sort().values


def _rows(graph: Graph, members: Sequence[Member]) -> list[int]:
    """Rows of a supernode's members. Raises InputError for one that is not in the graph."""
    supernode(members, 0.0)  # raises for what is no feature
    places = {tuple(m[1:4]) if isinstance(m, Node) else tuple(m) for m in members}
    return sorted(graph.nodes.find("feature", *place) for place in places)


@dataclass(frozen=True, eq=False)
class _Ablation:
    """Some features of a graph, held at zero together."""

    graph: Graph
    rows: list[int]

    @property
    def interventions(self) -> list[Intervention]:
        return supernode([self.graph.nodes[row] for row in self.rows], 0.0)

    def tested(self, effect: float) -> Tested:
        nodes = [self.graph.nodes[row] for row in self.rows]
        tokens = self.graph.about.tokens
        names = [
            f'layer {n.layer} #{n.index} at "{tokens[n.position]}" ({n.position})' for n in nodes
        ]
        return Tested(
            name=names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
            layer=min(n.layer for n in nodes),
            influence=sum(n.influence for n in nodes),
            activation=sum(n.activation for n in nodes),
            effect=effect,
        )


class _Test:
    """A graph and the model that it will be tested on."""

    def __init__(self, graph: Graph, original: Original, targets: Int[Tensor, " target"]) -> None:
        self.graph, self.original = graph, original
        nodes, total = graph.nodes, graph.adjacency.abs().sum(1).clamp(min=1e-10)
        features = nodes.is_kind("feature").nonzero().flatten()
        answers = targets[nodes.is_kind("logit")[targets]]
        self.rows = torch.cat([features, answers])
        self.size = total[self.rows]
        self.columns = [getattr(nodes, c)[features] for c in ("layer", "position", "index")]
        self.places = nodes.position[answers], nodes.index[answers]
        self.weights = graph.target_weights[self.rows]

    def values(self, run: Intervened) -> Float[Tensor, " measured"]:
        """Pre-activations of the graph's features, and logits less their mean, in one run."""
        cap, logits = self.original.snapshot.soft_cap, run.logits.cpu().double()
        logits = logits if cap is None else cap * torch.atanh(logits / cap)
        position, token = self.places
        answers = logits[position, token] - logits.mean(-1)[position]
        return torch.cat([run.preactivations(*self.columns).cpu().double(), answers])

    def measure(self, ablations: Sequence[_Ablation], mode: Mode) -> Float[Tensor, "run measured"]:
        """By how much each ablation changes each feature and answer."""
        wanted: list[list[Intervention]] = [[], *(a.interventions for a in ablations)]
        clamps = at_prompt(self.original, wanted)
        made = runs(self.original, clamps, len(wanted), mode)
        before = self.values(next(made))
        changes = [self.values(run) - before for run in made]
        return torch.stack(changes) if changes else before.new_zeros(0, len(before))

    def direct(self, ablations: Sequence[_Ablation]) -> Direct:
        """Direct effects against edges; a pruned graph says nothing where it has no edge."""
        measured = self.measure(ablations, Mode("direct"))
        edges = self.graph.adjacency[self.rows].double()
        largest = edges.abs().amax(1).clamp(min=1e-10)
        predicted = torch.stack([-edges[:, a.rows].sum(1) for a in ablations])
        said = torch.stack([(edges[:, a.rows] != 0).all(1) for a in ablations])
        said |= not is_pruned(self.graph)
        missed = ((measured - predicted).abs() / largest)[said]
        return Direct(len(missed), float(missed.max()) if len(missed) else 0.0)

    def on_targets(self, changes: Float[Tensor, "run measured"]) -> Float[Tensor, " run"]:
        """The targets' change, each as a share of what reaches it, weighted."""
        return (changes.abs() / self.size) @ self.weights.double()

    def later(
        self, ablations: Sequence[_Ablation], changes: Float[Tensor, "run measured"]
    ) -> float | None:
        """Influence on later features against the effect on them, each ranked over the features
        that a node reaches."""
        sources = torch.tensor([a.rows[0] for a in ablations])
        shares = normalise(self.graph.adjacency).double()
        current = total = shares[:, sources]
        while current.any():
            current = shares @ current
            total = total + current
        found = []
        features = len(self.columns[0])
        for i in range(len(ablations)):
            reached = total[self.rows[:features], i]
            here = reached > 0
            effect = (changes[i].abs() / self.size)[:features]
            found.append(spearman(reached[here], effect[here]))
        known = [f for f in found if f is not None]
        return sum(known) / len(known) if known else None

    def curve(self, seed: int) -> Curve:
        """The first features of each ranking, ablated together."""
        graph, draw = self.graph, torch.Generator().manual_seed(seed)
        rows = (graph.nodes.is_kind("feature") & (graph.target_weights == 0)).nonzero().flatten()
        counts = tuple(c for c in COUNTS if c <= len(rows))
        orders = [
            getattr(graph.nodes, by)[rows].abs().argsort(descending=True, stable=True)
            for by in ("influence", "activation")
        ]
        orders += [torch.randperm(len(rows), generator=draw) for _ in range(DRAWS)]
        ablations = [_Ablation(graph, rows[o[:c]].tolist()) for o in orders for c in counts]
        effects = self.on_targets(self.measure(ablations, Mode())).view(len(orders), len(counts))
        by_chance = effects[2:].mean(0)
        columns = (tuple(e.tolist()) for e in (effects[0], effects[1], by_chance))
        return Curve(counts, *columns)

    def layers(self, ablations: Sequence[_Ablation]) -> tuple[LayerFaithfulness, ...]:
        """How the layers above each ablated feature respond to the loss of its own write."""
        n_layers = len(self.original.snapshot.blocks)
        reads = torch.stack(self.original.reads)
        cosines: list[list[float]] = [[] for _ in range(n_layers)]
        errors: list[list[float]] = [[] for _ in range(n_layers)]
        for source in range(n_layers - 1):
            here = [a for a in ablations if self.graph.nodes[a.rows[0]].layer == source]
            own = range(source, source + 1)
            if not here or source not in self.original.dictionary.written_layers(source):
                continue
            both = [self._responses(here, own, mlps) - reads for mlps in ("model", "replacement")]
            for layer in range(source + 1, n_layers):
                for one, other in zip(
                    *(b[:, layer].flatten(1).cpu().double() for b in both), strict=True
                ):
                    if float(one.norm()) > 0 and float(other.norm()) > 0:
                        cosines[layer].append(float(one @ other / (one.norm() * other.norm())))
                        errors[layer].append(float(((one - other).norm() / one.norm()) ** 2))
        return tuple(
            LayerFaithfulness(layer, len(c), _mean(c), _mean(e))
            for layer, (c, e) in enumerate(zip(cosines, errors, strict=True))
            if layer
        )

    def _responses(self, ablations: Sequence[_Ablation], own: range, mlps: Any) -> Tensor:
        clamps = at_prompt(self.original, [a.interventions for a in ablations])
        mode = Mode("constrained", own, mlps=mlps)
        return torch.stack([r.reads for r in runs(self.original, clamps, len(ablations), mode)])


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _ranking(tested: Sequence[Tested], later: float | None, seed: int) -> Ranking:
    effect, by_influence, by_activation = (
        torch.tensor([getattr(t, name) for t in tested], dtype=torch.float64)
        for name in ("effect", "influence", "activation")
    )
    draw = torch.Generator().manual_seed(seed)
    chance = [
        spearman(torch.randperm(len(effect), generator=draw).double(), effect) for _ in range(100)
    ]
    known = [abs(c) for c in chance if c is not None]
    return Ranking(
        influence=spearman(by_influence, effect),
        activation=spearman(by_activation.abs(), effect),
        random=_mean(known),
        later_features=later,
    )
