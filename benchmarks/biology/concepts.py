"""What the studies share: Atlas, the features that tell the classes of a table apart, swaps of one
class for another, and the random swaps that they are compared with.

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
"""How swaps spread: everything but attention patterns is recomputed, each feature counted once."""
FREE: dict[str, Any] = {**MODE, "freeze_attention": False}
"""The same with attention patterns recomputed too, where words say where to look."""
BATCH = 1000
"""Prompts that go through the model together."""


class Atlas(NamedTuple):
    """The bundled model, its dictionary, and the model as tl-attribution sees it."""

    model: Any
    dictionary: tla.Dictionary
    host: Host


@lru_cache(maxsize=1)
def load() -> Atlas:
    """Atlas, on one thread: the studies are to give the same numbers everywhere."""
    torch.set_num_threads(1)
    model = tla.load_model("atlas")
    return Atlas(model, tla.load_dictionary("atlas"), host_for(model))


def token(atlas: Atlas, word: str) -> int:
    """The token of an answer, which Atlas's tokenizer keeps whole."""
    (found,) = atlas.host.tokenize(f" {word}", with_bos=False)
    return found


def _by_length(atlas: Atlas, prompts: Sequence[str]) -> Iterable[tuple[list[int], Tensor]]:
    """Some prompts of one length at a time: their places and tokens."""
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
    found = torch.zeros(shape)
    sites = (
        host.read_site(dictionary.feature_input_hook),
        host.write_site(dictionary.feature_output_hook),
    )
    for places, ids in _by_length(atlas, prompts):
        inputs = host.read_mlps(ids, *sites).inputs[:, list(positions)]
        for layer in range(dictionary.n_layers):
            x = inputs[:, :, layer].flatten(0, 1)
            active = dictionary.encode_layer(layer, x).activation
            found[places, :, layer] = active.view(len(places), len(positions), -1)
    return found


@torch.no_grad()
def answers(atlas: Atlas, prompts: Sequence[str]) -> list[int]:
    """The token that Atlas answers each prompt with."""
    found = [0] * len(prompts)
    for places, ids in _by_length(atlas, prompts):
        logits = atlas.model(ids)[:, -1]
        for place, answer in zip(places, logits.argmax(-1).tolist(), strict=True):
            found[place] = answer
    return found


def class_means(
    found: Float[Tensor, "prompt position layer feature"], labels: Sequence[int]
) -> Means:
    """Mean activation over the prompts of each class. ``labels``: the class of each prompt."""
    which = torch.tensor(labels)
    return torch.stack([found[which == label].mean(0) for label in range(max(labels) + 1)])


def selectivity(means: Means) -> Means:
    """How much of a feature's activation tells a class: its mean over the class less the mean over
    all other classes, as a share of its largest mean over any class. 1: active there alone."""
    others = (means.sum(0) - means) / (len(means) - 1)
    return (means - others) / means.amax(0).clamp(min=1e-6)


class Told(NamedTuple):
    """How well single features tell classes, each [class, position, layer, feature].

    A feature counts as active above :data:`ON` of its largest activation on any of the prompts.
    ``precision``: which part of the prompts where it is active are the class's; ``recall``: on
    which part of the class's prompts it is active.
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


def tell(found: Float[Tensor, "prompt position layer feature"], labels: Sequence[int]) -> Told:
    """Precision and recall of every feature for every class. ``labels``: the class of each
    prompt."""
    on = (found > ON * found.amax(0)).float()
    members = torch.nn.functional.one_hot(torch.tensor(labels)).float()
    right = torch.einsum("pc,palf->calf", members, on)
    in_class = members.sum(0)[:, None, None, None]
    return Told(right / on.sum(0).clamp(min=1), right / in_class.clamp(min=1))


class Asked(NamedTuple):
    """One question, asked about the members of every class: prompts, and the class of each."""

    prompts: list[str]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Concept:
    """Features that tell classes apart.

    ``means``: the activation of every feature over each class; ``members``: which features tell a
    class; ``active``: which are active on some prompt at all. ``positions`` are counted from the
    end of the prompt.
    """

    positions: tuple[int, ...]
    means: Means
    members: Members
    active: Bool[Tensor, "position layer feature"]

    def within(
        self, *, layers: Sequence[int] | None = None, positions: Sequence[int] | None = None
    ) -> Concept:
        """The same with only the members in some layers or at some positions."""
        keep = torch.ones(self.members.shape[1:], dtype=torch.bool)
        for at, layer in enumerate(range(keep.shape[1])):
            keep[:, at] &= layers is None or layer in layers
        for at, position in enumerate(self.positions):
            keep[at] &= positions is None or position in positions
        return replace(self, members=self.members & keep)

    def size(self) -> float:
        """Features of a class, the mean over classes."""
        return float(self.members.flatten(1).sum(1).float().mean())

    def swap(self, source: int, target: int) -> list[tla.Intervention]:
        """The features of both classes, held at what they are in the target class."""
        places = (self.members[source] | self.members[target]).nonzero().tolist()
        values = self.means[target]
        return [
            tla.Intervention(layer, self.positions[at], feature, float(values[at, layer, feature]))
            for at, layer, feature in places
        ]


def find_concept(
    atlas: Atlas,
    asked: Sequence[Asked],
    values: Asked,
    positions: Sequence[int],
    threshold: float,
    *,
    every: bool = True,
) -> Concept:
    """The features that tell the classes apart, found on some questions to be tried on another.

    A feature is a member of a class if its selectivity for it is above ``threshold`` in every one
    of the questions ``asked`` (or in one of them at least: ``every=False``); so features that serve
    only to say the answer of a question that is not among them are left out. ``values`` is the
    question that says how active the members are in each class.
    """
    told = torch.stack([_selectivity_asked(atlas, one, positions) for one in asked])
    members = (told.amin(0) if every else told.amax(0)) > threshold
    found = activations(atlas, values.prompts, positions)
    return Concept(tuple(positions), class_means(found, values.labels), members, (found > 0).any(0))


def _selectivity_asked(atlas: Atlas, asked: Asked, positions: Sequence[int]) -> Means:
    return selectivity(class_means(activations(atlas, asked.prompts, positions), asked.labels))


def held_out() -> set[str]:
    """Every prompt that Atlas was never trained on."""
    return {q.prompt for q in corpus.questions() if q.held_out}


def random_like(
    changes: Sequence[tla.Intervention], concept: Concept, rng: random.Random
) -> list[tla.Intervention]:
    """The control of a swap: as many other features, in the same layers and at the same positions,
    held at the same values; drawn from those that are active on the concept's prompts, from the
    rest of the layer where those are too few, and fewer where a layer has no more."""
    held = [(c.layer, c.position) for c in changes]
    drawn: dict[tuple[int, Any], list[int]] = {}
    for layer, position in dict.fromkeys(held):
        taken = {c.feature for c in changes if (c.layer, c.position) == (layer, position)}
        active = concept.active[concept.positions.index(position), layer]
        pool = [f for f in active.nonzero().flatten().tolist() if f not in taken]
        rest = [f for f in (~active).nonzero().flatten().tolist() if f not in taken]
        n = held.count((layer, position))
        more = rng.sample(rest, min(len(rest), max(0, n - len(pool))))
        drawn[layer, position] = rng.sample(pool, min(n, len(pool))) + more
    return [
        replace(c, feature=drawn[c.layer, c.position].pop())
        for c in changes
        if drawn[c.layer, c.position]
    ]


class Swap(NamedTuple):
    """A prompt, what is changed in its run, and the answer (a token) that should come of it."""

    prompt: str
    changes: list[tla.Intervention]
    wanted: int


def outcomes(atlas: Atlas, swaps: Sequence[Swap], **mode: Any) -> list[int]:
    """The answer after each swap: all swaps of one prompt go through the model together."""
    found = [0] * len(swaps)
    by_prompt: dict[str, list[int]] = {}
    for place, swap in enumerate(swaps):
        by_prompt.setdefault(swap.prompt, []).append(place)
    for prompt, places in by_prompt.items():
        groups = [swaps[place].changes for place in places]
        runs = tla.intervene_each(atlas.model, prompt, atlas.dictionary, groups, **(mode or MODE))
        for place, run in zip(places, runs, strict=True):
            found[place] = int(run.logits[-1].argmax())
    return found


class Outcome(NamedTuple):
    """Which swaps gave the wanted answer, beside their controls, in the order of the swaps, and
    the answers (tokens) that the swaps gave."""

    swapped: list[bool]
    control: list[bool]
    answers: list[int]

    @property
    def rate(self) -> float:
        """Share of the swaps that gave the wanted answer."""
        return share(self.swapped)

    @property
    def control_rate(self) -> float:
        """Share of the controls that did."""
        return share(self.control)


def try_swaps(
    atlas: Atlas, swaps: Sequence[Swap], concept: Concept, seed: int = 0, **mode: Any
) -> Outcome:
    """Every swap, and its control. ``mode``: how they spread, :data:`MODE` if nothing is said."""
    rng = random.Random(seed)
    controls = [s._replace(changes=random_like(s.changes, concept, rng)) for s in swaps]
    tried = [*swaps, *controls]
    found = outcomes(atlas, tried, **mode)
    right = [answer == swap.wanted for answer, swap in zip(found, tried, strict=True)]
    n = len(swaps)
    return Outcome(right[:n], right[n:], found[:n])


def share(flags: Iterable[bool]) -> float:
    """How many of them are true, from 0 to 1; NaN of none."""
    found = list(flags)
    return sum(found) / len(found) if found else float("nan")
