"""Features that tell the classes of one of Atlas's tables apart, swaps of one class for another,
and random swaps as their control.

A study never names a feature. It asks questions about a table whose classes are known (states,
languages), and takes the features whose activation tells the classes apart. Positions are counted
from the end of a prompt, so that questions of different length line up at what they ask about.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import tl_attribution as tla
from tl_attribution.atlas import corpus
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.registry import host_for

Means = Float[Tensor, "class position layer feature"]
Members = Bool[Tensor, "class position layer feature"]

MODE: dict[str, Any] = {"propagation": "iterative", "mlps": "replacement"}
"""Propagation of swaps: the replacement model recomputes everything but attention patterns."""
FREE: dict[str, Any] = {**MODE, "freeze_attention": False}
"""Like :data:`MODE` with attention patterns recomputed too, where words determine attention."""
BATCH = 1000
"""Prompts per forward pass."""


class Atlas(NamedTuple):
    """The bundled model, its dictionary, and the model as tl-attribution sees it."""

    model: Any
    dictionary: tla.Dictionary
    host: Host


@lru_cache(maxsize=1)
def load() -> Atlas:
    """Load Atlas, on one thread so that the studies give the same numbers everywhere."""
    torch.set_num_threads(1)
    model = tla.load_model("atlas")
    return Atlas(model, tla.load_dictionary("atlas"), host_for(model))


def token(atlas: Atlas, word: str) -> int:
    """Token id of an answer, which is one token in Atlas's vocabulary."""
    (token_id,) = atlas.host.tokenize(f" {word}", with_bos=False)
    return token_id


def _by_length(atlas: Atlas, prompts: Sequence[str]) -> Iterable[tuple[list[int], Tensor]]:
    """Batches of prompts of equal length: their indices and token ids."""
    ids = atlas.host.tokenize_all(prompts, with_bos=True)
    for length in sorted({len(i) for i in ids}):
        places = [place for place, i in enumerate(ids) if len(i) == length]
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            yield some, torch.tensor([ids[place] for place in some])


@torch.no_grad()
def activations(
    atlas: Atlas, prompts: Sequence[str], positions: Sequence[int]
) -> Float[Tensor, "prompt position layer feature"]:
    """Activations of all features, at positions counted from the end of each prompt (-1: the last
    token)."""
    dictionary, host = atlas.dictionary, atlas.host
    shape = len(prompts), len(positions), dictionary.n_layers, dictionary.n_features
    values = torch.zeros(shape)
    sites = (
        host.read_site(dictionary.feature_input_hook),
        host.write_site(dictionary.feature_output_hook),
    )
    for places, ids in _by_length(atlas, prompts):
        inputs = host.read_mlps(ids, *sites).inputs[:, list(positions)]
        for layer in range(dictionary.n_layers):
            x = inputs[:, :, layer].flatten(0, 1)
            active = dictionary.encode_layer(layer, x).activation
            values[places, :, layer] = active.view(len(places), len(positions), -1)
    return values


@torch.no_grad()
def answers(atlas: Atlas, prompts: Sequence[str]) -> list[int]:
    """Atlas's answer to each prompt, as a token id."""
    token_ids = [0] * len(prompts)
    for places, ids in _by_length(atlas, prompts):
        logits = atlas.model(ids)[:, -1]
        for place, answer in zip(places, logits.argmax(-1).tolist(), strict=True):
            token_ids[place] = answer
    return token_ids


def class_means(
    values: Float[Tensor, "prompt position layer feature"], labels: Sequence[int]
) -> Means:
    """Mean activation over the prompts of each class. ``labels``: the class of each prompt."""
    which = torch.tensor(labels)
    return torch.stack([values[which == label].mean(0) for label in range(max(labels) + 1)])


def selectivity(means: Means) -> Means:
    """Selectivity of each feature for each class: its mean over the class minus the mean over all
    other classes, relative to its largest mean over any class. 1: active in that class only."""
    others = (means.sum(0) - means) / (len(means) - 1)
    return (means - others) / means.amax(0).clamp(min=1e-6)


class ClassScores(NamedTuple):
    """Precision and recall of single features as classifiers of a prompt's class,
    each [class, position, layer, feature].

    A feature counts as active above :data:`ON` of its largest activation on any of the prompts.
    ``precision``: share of the prompts where it is active that belong to the class; ``recall``:
    share of the class's prompts where it is active.
    """

    precision: Tensor
    recall: Tensor

    @property
    def f1(self) -> Tensor:
        """Their harmonic mean."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both.clamp(min=1e-6)


ON = 0.3
"""Share of its largest activation above which a feature counts as active."""


def class_scores(
    values: Float[Tensor, "prompt position layer feature"], labels: Sequence[int]
) -> ClassScores:
    """Precision and recall of every feature for every class. ``labels``: the class of each
    prompt."""
    on = (values > ON * values.amax(0)).float()
    members = torch.nn.functional.one_hot(torch.tensor(labels)).float()
    right = torch.einsum("pc,palf->calf", members, on)
    in_class = members.sum(0)[:, None, None, None]
    return ClassScores(right / on.sum(0).clamp(min=1), right / in_class.clamp(min=1))


class LabeledPrompts(NamedTuple):
    """One question about the members of every class: prompts, and the class of each."""

    prompts: list[str]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Concept:
    """Features that tell classes apart.

    ``means``: mean activation of every feature over each class; ``members``: the features
    selective for each class; ``active``: the features active on at least one prompt. ``positions``
    are counted from the end of the prompt.
    """

    positions: tuple[int, ...]
    means: Means
    members: Members
    active: Bool[Tensor, "position layer feature"]

    def within(
        self, *, layers: Sequence[int] | None = None, positions: Sequence[int] | None = None
    ) -> Concept:
        """The concept restricted to members in some layers or at some positions."""
        keep = torch.ones(self.members.shape[1:], dtype=torch.bool)
        for at, layer in enumerate(range(keep.shape[1])):
            keep[:, at] &= layers is None or layer in layers
        for at, position in enumerate(self.positions):
            keep[at] &= positions is None or position in positions
        return replace(self, members=self.members & keep)

    def size(self) -> float:
        """Number of features per class, mean over classes."""
        return float(self.members.flatten(1).sum(1).float().mean())

    def swap(self, source: int, target: int) -> list[tla.Intervention]:
        """Set the features of both classes to their means in the target class."""
        places = (self.members[source] | self.members[target]).nonzero().tolist()
        values = self.means[target]
        return [
            tla.Intervention(layer, self.positions[at], feature, float(values[at, layer, feature]))
            for at, layer, feature in places
        ]


def find_concept(
    atlas: Atlas,
    questions: Sequence[LabeledPrompts],
    value_prompts: LabeledPrompts,
    positions: Sequence[int],
    threshold: float,
    *,
    every_question: bool = True,
) -> Concept:
    """Find the features that tell the classes apart in some questions, to be tested on another.

    A feature is a member of a class if its selectivity for it is above ``threshold`` in
    every question of ``questions`` (``every_question=False``: in at least one), which leaves out
    features that only encode the answer of another question. The mean activations over
    ``value_prompts`` are the values that a swap sets.
    """
    scores = torch.stack([_selectivity_of(atlas, prompts, positions) for prompts in questions])
    members = (scores.amin(0) if every_question else scores.amax(0)) > threshold
    values = activations(atlas, value_prompts.prompts, positions)
    return Concept(
        tuple(positions), class_means(values, value_prompts.labels), members, (values > 0).any(0)
    )


def _selectivity_of(atlas: Atlas, prompts: LabeledPrompts, positions: Sequence[int]) -> Means:
    return selectivity(class_means(activations(atlas, prompts.prompts, positions), prompts.labels))


def held_out() -> set[str]:
    """The prompts held out of Atlas's training."""
    return {q.prompt for q in corpus.questions() if q.held_out}


def random_control(
    changes: Sequence[tla.Intervention], concept: Concept, rng: random.Random
) -> list[tla.Intervention]:
    """The control of a swap: other random features in the same layers and at the same positions,
    set to the same values. They are drawn from those active on the concept's prompts, then from the
    rest of the layer; fewer if the layer has no more."""
    places = [(c.layer, c.position) for c in changes]
    drawn: dict[tuple[int, Any], list[int]] = {}
    for layer, position in dict.fromkeys(places):
        taken = {c.feature for c in changes if (c.layer, c.position) == (layer, position)}
        active = concept.active[concept.positions.index(position), layer]
        pool = [f for f in active.nonzero().flatten().tolist() if f not in taken]
        rest = [f for f in (~active).nonzero().flatten().tolist() if f not in taken]
        n = places.count((layer, position))
        more = rng.sample(rest, min(len(rest), max(0, n - len(pool))))
        drawn[layer, position] = rng.sample(pool, min(n, len(pool))) + more
    return [
        replace(c, feature=drawn[c.layer, c.position].pop())
        for c in changes
        if drawn[c.layer, c.position]
    ]


class Swap(NamedTuple):
    """A prompt, the interventions on its run, and the expected answer (a token id)."""

    prompt: str
    changes: list[tla.Intervention]
    expected: int


def outcomes(atlas: Atlas, swaps: Sequence[Swap], **mode: Any) -> list[int]:
    """The answer (a token id) after each swap; the swaps of one prompt run as one batch."""
    token_ids = [0] * len(swaps)
    by_prompt: dict[str, list[int]] = {}
    for place, swap in enumerate(swaps):
        by_prompt.setdefault(swap.prompt, []).append(place)
    for prompt, places in by_prompt.items():
        groups = [swaps[place].changes for place in places]
        runs = tla.intervene_each(atlas.model, prompt, atlas.dictionary, groups, **(mode or MODE))
        for place, run in zip(places, runs, strict=True):
            token_ids[place] = int(run.logits[-1].argmax())
    return token_ids


class Outcome(NamedTuple):
    """Whether each swap and its control gave the expected answer, and the answers (token ids) of
    the swaps."""

    swapped: list[bool]
    control: list[bool]
    answers: list[int]

    @property
    def rate(self) -> float:
        """Share of the swaps that gave the expected answer."""
        return share(self.swapped)

    @property
    def control_rate(self) -> float:
        """Share of the controls that gave the expected answer."""
        return share(self.control)


def try_swaps(
    atlas: Atlas, swaps: Sequence[Swap], concept: Concept, seed: int = 0, **mode: Any
) -> Outcome:
    """Run every swap and its control. ``mode``: settings of ``tla.intervene_each``, default
    :data:`MODE`."""
    rng = random.Random(seed)
    controls = [s._replace(changes=random_control(s.changes, concept, rng)) for s in swaps]
    tried = [*swaps, *controls]
    token_ids = outcomes(atlas, tried, **mode)
    right = [answer == swap.expected for answer, swap in zip(token_ids, tried, strict=True)]
    n = len(swaps)
    return Outcome(right[:n], right[n:], token_ids[:n])


def share(flags: Iterable[bool]) -> float:
    """Share of true values, from 0 to 1; NaN if there are none."""
    values = list(flags)
    return sum(values) / len(values) if values else float("nan")
