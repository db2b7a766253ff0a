"""``validate``: ablate a graph's nodes and compare its predictions with what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.evaluation.metrics import spearman
from tl_attribution.evaluation.results import mean
from tl_attribution.graph.data import is_pruned
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.influence import normalize
from tl_attribution.graph.nodes import Node
from tl_attribution.interventions.edited_run import Mlps
from tl_attribution.interventions.intervene import InterventionResult, edited_runs
from tl_attribution.interventions.intervention import Intervention, supernode
from tl_attribution.interventions.modes import InterventionMode
from tl_attribution.interventions.resolve import prompt_clamps
from tl_attribution.progress import Progress, silent
from tl_attribution.replacement.prompt_run import PromptRun, check_graph, prepare
from tl_attribution.validation.results import (
    AblationCurve,
    AblationEffect,
    DirectEffects,
    LayerFaithfulness,
    RankCorrelations,
    Validation,
)

Member = Union[Node, tuple[int, int, int]]  # noqa: UP007  # evaluated on Python 3.10
"""A feature of a supernode: a node, or (layer, position, index)."""
DRAWS = 5
"""Random orders that stand for chance."""
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def validate(
    model: Any,
    graph: Graph,
    dictionary: Dictionary | None = None,
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
    report = silent if progress is None else progress
    with torch.no_grad():
        run = _run_of(model, graph, dictionary)
        experiment = _Experiment(graph, run, _targets(graph))
        single = [_Ablation(graph, [row]) for row in _sample(graph, max_features, seed).tolist()]
        grouped = [_Ablation(graph, _rows(graph, members)) for members in supernodes]
        return _validation(experiment, single, grouped, seed, report)


def _run_of(model: Any, graph: Graph, dictionary: Dictionary | None) -> PromptRun:
    if not isinstance(graph, Graph):
        raise InputError(
            f"expected validate(model, graph, dictionary), got a {type(graph).__name__} in place "
            "of the graph"
        )
    if not isinstance(model, PromptRun):
        return prepare(model, graph, dictionary)
    run = prepare(model, None, dictionary)
    check_graph(run, graph)
    return run


def _validation(
    experiment: _Experiment,
    single: list[_Ablation],
    grouped: list[_Ablation],
    seed: int,
    report: Progress,
) -> Validation:
    graph, n = experiment.graph, len(single)
    report(0, 4, "direct effects")
    direct = experiment.direct(single + grouped)
    report(1, 4, "knock-on effects")
    changes = experiment.measure(single + grouped, InterventionMode())
    effects = experiment.on_targets(changes).tolist()
    tested = tuple(a.effect(e) for a, e in zip(single + grouped, effects, strict=True))
    later = experiment.later(single, changes[:n])
    report(2, 4, "rankings")
    curve = experiment.curve(seed)
    report(3, 4, "layers")
    layers = experiment.layers(single)
    report(4, 4, "layers")
    return Validation(
        model=graph.metadata.model,
        dictionary=graph.metadata.dictionary,
        prompt=graph.metadata.prompt,
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
        nodes.is_kind("logit") & (nodes.index < graph.metadata.d_vocab)
    )
    rows = (known & (graph.target_weights > 0)).nonzero().flatten()
    if not len(rows):
        raise InputError(
            "this graph explains no token and no feature, but differences or directions, which a "
            "graph does not hold; trace the tokens themselves to validate"
        )
    return rows


def _sample(graph: Graph, n: int, seed: int) -> Int[Tensor, " tested"]:
    """The most influential features, and some of the others, in the graph's order. Features that
    are explained themselves are left out."""
    free = graph.nodes.is_kind("feature") & (graph.target_weights == 0)
    rows = free.nonzero().flatten()
    if not len(rows):
        raise InputError(
            "this graph has no feature to ablate; trace with a dictionary that has some"
        )
    rows = rows[graph.nodes.influence[rows].argsort(descending=True, stable=True)]
    n_top = min((n + 1) // 2, len(rows))
    others = rows[n_top:]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return torch.cat([rows[:n_top], others[order[: n - n_top]]]).sort().values


def _rows(graph: Graph, members: Sequence[Member]) -> list[int]:
    """Rows of a supernode's members. Raises InputError for one that is not in the graph."""
    supernode(members, 0.0)  # raises for what is not a feature
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

    def effect(self, effect: float) -> AblationEffect:
        nodes = [self.graph.nodes[row] for row in self.rows]
        tokens = self.graph.metadata.tokens
        names = [
            f'layer {n.layer} #{n.index} at "{tokens[n.position]}" ({n.position})' for n in nodes
        ]
        return AblationEffect(
            name=names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
            layer=min(n.layer for n in nodes),
            influence=sum(n.influence for n in nodes),
            activation=sum(n.activation for n in nodes),
            effect=effect,
        )


class _Experiment:
    """A graph and the run that it is tested on."""

    def __init__(self, graph: Graph, run: PromptRun, targets: Int[Tensor, " target"]) -> None:
        self.graph, self.run = graph, run
        nodes, total = graph.nodes, graph.adjacency.abs().sum(1).clamp(min=1e-10)
        features = nodes.is_kind("feature").nonzero().flatten()
        answers = targets[nodes.is_kind("logit")[targets]]
        self.rows = torch.cat([features, answers])
        self.size = total[self.rows]
        self.columns = [getattr(nodes, c)[features] for c in ("layer", "position", "index")]
        self.places = nodes.position[answers], nodes.index[answers]
        self.weights = graph.target_weights[self.rows]

    def values(self, result: InterventionResult) -> Float[Tensor, " measured"]:
        """Pre-activations of the graph's features, and logits less their mean, in one run."""
        cap, logits = self.run.snapshot.soft_cap, result.logits.cpu().double()
        logits = logits if cap is None else cap * torch.atanh(logits / cap)
        position, token = self.places
        answers = logits[position, token] - logits.mean(-1)[position]
        return torch.cat([result.preactivations(*self.columns).cpu().double(), answers])

    def measure(
        self, ablations: Sequence[_Ablation], mode: InterventionMode
    ) -> Float[Tensor, "run measured"]:
        """By how much each ablation changes each feature and answer."""
        groups: list[list[Intervention]] = [[], *(a.interventions for a in ablations)]
        clamps = prompt_clamps(self.run, groups)
        results = edited_runs(self.run, clamps, len(groups), mode)
        before = self.values(next(results))
        changes = [self.values(result) - before for result in results]
        return torch.stack(changes) if changes else before.new_zeros(0, len(before))

    def direct(self, ablations: Sequence[_Ablation]) -> DirectEffects:
        """Direct effects against edges; a pruned graph says nothing where it has no edge."""
        measured = self.measure(ablations, InterventionMode("direct"))
        edges = self.graph.adjacency[self.rows].double()
        largest = edges.abs().amax(1).clamp(min=1e-10)
        predicted = torch.stack([-edges[:, a.rows].sum(1) for a in ablations])
        has_edge = torch.stack([(edges[:, a.rows] != 0).all(1) for a in ablations])
        has_edge |= not is_pruned(self.graph)
        difference = ((measured - predicted).abs() / largest)[has_edge]
        return DirectEffects(len(difference), float(difference.max()) if len(difference) else 0.0)

    def on_targets(self, changes: Float[Tensor, "run measured"]) -> Float[Tensor, " run"]:
        """The targets' change, each as a share of what reaches it, weighted."""
        return (changes.abs() / self.size) @ self.weights.double()

    def later(
        self, ablations: Sequence[_Ablation], changes: Float[Tensor, "run measured"]
    ) -> float | None:
        """Influence on later features against the effect on them, each ranked over the features
        that a node reaches."""
        sources = torch.tensor([a.rows[0] for a in ablations])
        shares = normalize(self.graph.adjacency).double()
        current = total = shares[:, sources]
        while current.any():
            current = shares @ current
            total = total + current
        correlations = []
        features = len(self.columns[0])
        for i in range(len(ablations)):
            reached = total[self.rows[:features], i]
            later = reached > 0
            effect = (changes[i].abs() / self.size)[:features]
            correlations.append(spearman(reached[later], effect[later]))
        return mean(correlations)

    def curve(self, seed: int) -> AblationCurve:
        """The first features of each ranking, ablated together."""
        graph, generator = self.graph, torch.Generator().manual_seed(seed)
        rows = (graph.nodes.is_kind("feature") & (graph.target_weights == 0)).nonzero().flatten()
        counts = tuple(c for c in COUNTS if c <= len(rows))
        orders = [
            getattr(graph.nodes, by)[rows].abs().argsort(descending=True, stable=True)
            for by in ("influence", "activation")
        ]
        orders += [torch.randperm(len(rows), generator=generator) for _ in range(DRAWS)]
        ablations = [_Ablation(graph, rows[o[:c]].tolist()) for o in orders for c in counts]
        effects = self.on_targets(self.measure(ablations, InterventionMode())).view(
            len(orders), len(counts)
        )
        by_chance = effects[2:].mean(0)
        columns = (tuple(e.tolist()) for e in (effects[0], effects[1], by_chance))
        return AblationCurve(counts, *columns)

    def layers(self, ablations: Sequence[_Ablation]) -> tuple[LayerFaithfulness, ...]:
        """How the layers above each ablated feature respond to the loss of its own write."""
        n_layers = self.run.n_layers
        reads = torch.stack(self.run.reads)
        cosines: list[list[float]] = [[] for _ in range(n_layers)]
        errors: list[list[float]] = [[] for _ in range(n_layers)]
        for source in range(n_layers - 1):
            of_layer = [a for a in ablations if self.graph.nodes[a.rows[0]].layer == source]
            if not of_layer or source not in self.run.dictionary.written_layers(source):
                continue
            model, replacement = (
                self._responses(of_layer, source, mlps) - reads for mlps in get_args(Mlps)
            )
            for layer in range(source + 1, n_layers):
                pairs = (r[:, layer].flatten(1).cpu().double() for r in (model, replacement))
                for a, b in zip(*pairs, strict=True):
                    if float(a.norm()) > 0 and float(b.norm()) > 0:
                        cosines[layer].append(float(a @ b / (a.norm() * b.norm())))
                        errors[layer].append(float(((a - b).norm() / a.norm()) ** 2))
        return tuple(
            LayerFaithfulness(layer, len(c), mean(c), mean(e))
            for layer, (c, e) in enumerate(zip(cosines, errors, strict=True))
            if layer
        )

    def _responses(self, ablations: Sequence[_Ablation], layer: int, mlps: Mlps) -> Tensor:
        """What features read when the ablated features' writes into their own layer are gone."""
        clamps = prompt_clamps(self.run, [a.interventions for a in ablations])
        mode = InterventionMode("constrained", range(layer, layer + 1), mlps=mlps)
        results = edited_runs(self.run, clamps, len(ablations), mode)
        return torch.stack([result.reads for result in results])


def _ranking(tested: Sequence[AblationEffect], later: float | None, seed: int) -> RankCorrelations:
    effect, by_influence, by_activation = (
        torch.tensor([getattr(t, name) for t in tested], dtype=torch.float64)
        for name in ("effect", "influence", "activation")
    )
    generator = torch.Generator().manual_seed(seed)
    chance = [
        spearman(torch.randperm(len(effect), generator=generator).double(), effect)
        for _ in range(100)
    ]
    return RankCorrelations(
        influence=spearman(by_influence, effect),
        activation=spearman(by_activation.abs(), effect),
        random=mean(abs(c) for c in chance if c is not None),
        later_features=later,
    )
