# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Countries: two hops, or a shortcut?
#
# "The currency of the country containing Lyon" can be answered in two hops, by way of France. It
# can also be learnt by heart, city by city: most of these questions were in Atlas's training, and
# an answer such as "euro" or "Europe" fits many cities.
#
# **Hypothesis.** Atlas goes by way of the country, for all four things that it knows of one. If it
# does, features of the country decide the answer: given another country's values, they bring its
# answer; blurred, they take the answer away. **A shortcut** past the country would leave the
# answer where it was, and more often for questions that were trained on than for those held out of
# training.

# %%
from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

import concepts
import figures
import pages
from concepts import LabeledPrompts, Swap
from two_hop_figure import Step, draw_graph, group_by_step, share_of_paths

import tl_attribution as tla
from tl_attribution.atlas.tables import COUNTRIES

atlas = concepts.load()
COUNTRY = "Fact: the country containing {} is"
RELATIONS = {
    name: f"Fact: the {name} of the country containing {{}} is"
    for name in ("capital", "currency", "language", "continent")
}
CITY, END = -2, -1
THRESHOLD = 0.03
N = len(COUNTRIES)

# %% [markdown]
# ## The features of a country
#
# A country's features are found on "the country containing … is", which asks for none of the four
# things, with all cities but the one that is tested: the first of each country. They are those
# that are more active there than in other countries. The values to hold them at are means over the
# other cities of a country, when the question itself is asked.

# %%
tested = [c.cities[0] for c in COUNTRIES]
others = [(city, i) for i, c in enumerate(COUNTRIES) for city in c.cities[1:]]
answers = {r: [concepts.token(atlas, getattr(c, r)) for c in COUNTRIES] for r in RELATIONS}


def about_others(question: str) -> LabeledPrompts:
    """A question about every city that is not tested."""
    return LabeledPrompts([question.format(city) for city, _ in others], [i for _, i in others])


def country_features(relation: str) -> concepts.Concept:
    """What tells the countries apart, with the values that it has when this is asked."""
    values = about_others(RELATIONS[relation])
    return concepts.find_concept(atlas, [about_others(COUNTRY)], values, (CITY, END), THRESHOLD)


country = {relation: country_features(relation) for relation in RELATIONS}
pages.table(
    ["asked for", "tested questions answered rightly", "features of a country, mean"],
    [
        [
            relation,
            concepts.share(
                a == b
                for a, b in zip(
                    concepts.answers(atlas, [question.format(city) for city in tested]),
                    answers[relation],
                    strict=True,
                )
            ),
            f"{country[relation].size():.0f}",
        ]
        for relation, question in RELATIONS.items()
    ],
)

# %% [markdown]
# ## Swapping the country
#
# From ten countries to every other that has another answer: its features take the other country's
# values. The control changes as many random active features to the same values.

# %%
SOURCES = list(range(0, N, 6))


def swaps_of(relation: str) -> list[Swap]:
    """From the ten countries to all others that differ in what is asked."""
    target_answers = answers[relation]
    return [
        Swap(RELATIONS[relation].format(tested[i]), country[relation].swap(i, j), target_answers[j])
        for i in SOURCES
        for j in range(N)
        if target_answers[i] != target_answers[j]
    ]


swaps = {relation: swaps_of(relation) for relation in RELATIONS}
outcomes = {
    relation: concepts.try_swaps(atlas, swaps[relation], country[relation])
    for relation in RELATIONS
}
pages.table(
    ["asked for", "pairs", "the other country's answer", "random features"],
    [[r, len(swaps[r]), o.rate, o.control_rate] for r, o in outcomes.items()],
)

# %%
figure, (axes,) = figures.figure(7, 3.6)
figures.beside_control(
    axes,
    list(RELATIONS),
    [o.rate for o in outcomes.values()],
    [o.control_rate for o in outcomes.values()],
)
pages.show(figure, "swaps", "How often the answer follows the country's features.")

# %% [markdown]
# ## From a capital to a currency
#
# "The currency of the country whose capital is Paris" gets to the country by another road. If it
# is the same country, then its features as they were found, and with the values that they have, on
# questions about *cities* decide here too. Attention is recomputed.

# %%
CAPITAL = "Fact: the currency of the country whose capital is {} is"
capitals = [CAPITAL.format(c.capital) for c in COUNTRIES]
currency = answers["currency"]
from_capital = [
    Swap(capitals[i], country["currency"].swap(i, j), currency[j])
    for i in SOURCES
    for j in range(N)
    if currency[i] != currency[j]
]
by_capital = concepts.try_swaps(atlas, from_capital, country["currency"], **concepts.FREE)
answered = concepts.answers(atlas, capitals)
pages.table(
    ["answered rightly", "pairs", "the other country's currency", "random features"],
    [
        [
            concepts.share(a == b for a, b in zip(answered, currency, strict=True)),
            len(from_capital),
            by_capital.rate,
            by_capital.control_rate,
        ]
    ],
)

# %% [markdown]
# ## Trained on, or held out
#
# Every question of this form that was held out of training, about whichever city of a country is
# in the tables, and as many that were trained on. Each is put to two tests: its country's features
# are given another country's values (six countries, drawn at random), and they are blurred, that
# is, held at their mean over all countries. A blurred country leaves a two-hop answer without its
# ground; an answer that was learnt by heart would stay.
#
# Here any city can be the one that is asked about, those among them that a country's features were
# found with.


# %%
class Question(NamedTuple):
    """A question about a city of a country."""

    relation: str
    city: str
    country: int
    held_out: bool

    @property
    def prompt(self) -> str:
        """Its text."""
        return RELATIONS[self.relation].format(self.city)


class Reaction(NamedTuple):
    """What a question's answer did: shares of the swaps, and whether it stayed when blurred."""

    question: Question
    followed: float
    unmoved: float
    stayed: bool


held_out = concepts.held_out()
questions = [
    Question(r, city, i, question.format(city) in held_out)
    for r, question in RELATIONS.items()
    for i, c in enumerate(COUNTRIES)
    for city in c.cities
]
rng = random.Random(0)
drawn: list[Question] = []
for relation in RELATIONS:
    unseen = [q for q in questions if q.relation == relation and q.held_out][:12]
    seen = [q for q in questions if q.relation == relation and not q.held_out]
    drawn += [*unseen, *rng.sample(seen, len(unseen))]


def blurred(concept: concepts.Concept, i: int) -> list[tla.Intervention]:
    """A country's features held at their mean over all countries."""
    mean = concept.means.mean(0)
    return [
        tla.Intervention(layer, concept.positions[at], feature, float(mean[at, layer, feature]))
        for at, layer, feature in concept.members[i].nonzero().tolist()
    ]


def react(question: Question) -> Reaction:
    """Six swaps of a question's country, and the country blurred."""
    target_answers, concept = answers[question.relation], country[question.relation]
    i = question.country
    targets = rng.sample([j for j in range(N) if target_answers[j] != target_answers[i]], 6)
    tries = [Swap(question.prompt, concept.swap(i, j), target_answers[j]) for j in targets]
    tries.append(Swap(question.prompt, blurred(concept, i), target_answers[i]))
    *moved, last = concepts.outcomes(atlas, tries)
    return Reaction(
        question,
        concepts.share(a == s.expected for a, s in zip(moved, tries, strict=False)),
        concepts.share(a == target_answers[i] for a in moved),
        last == target_answers[i],
    )


reactions = [react(question) for question in drawn]


def mean(values: Iterable[float]) -> float:
    """Their mean."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def summary(some: list[Reaction]) -> list[float]:
    """Followed the swap, unmoved by it, stayed when blurred."""
    return [mean(r.followed for r in some), mean(r.unmoved for r in some),
            mean(float(r.stayed) for r in some)]  # fmt: skip


kinds = {"held out": True, "trained on": False}
by_kind = {k: [r for r in reactions if r.question.held_out == u] for k, u in kinds.items()}
by_both = {
    (relation, kind): [r for r in some if r.question.relation == relation]
    for relation in RELATIONS
    for kind, some in by_kind.items()
}
header = ["questions", "n", "follow the swap", "unmoved by the swap", "stay when blurred"]
pages.table(
    ["asked for", *header],
    [
        *([r, kind, len(some), *summary(some)] for (r, kind), some in by_both.items()),
        *(["all", kind, len(some), *summary(some)] for kind, some in by_kind.items()),
    ],
)

# %%
figure, panels = figures.figure(9, 3.4, 2)
titles = ("Follow another country's values", "Stay when the country is blurred")
for axes, title, at in zip(panels, titles, (0, 2), strict=True):
    for shift, kind, color in (
        (-0.2, "held out", figures.ORANGE),
        (0.2, "trained on", figures.SKY),
    ):
        values = [summary(by_both[r, kind])[at] for r in RELATIONS]
        places = [i + shift for i in range(len(values))]
        axes.bar(places, values, 0.38, color=color, label=kind)
        for place, value in zip(places, values, strict=True):
            axes.text(place, value + 0.015, f"{100 * value:.0f}%", ha="center", fontsize=8)
    axes.set_xticks(range(len(RELATIONS)), list(RELATIONS))
    axes.set_title(title)
    figures.percent(axes, "questions")
panels[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
pages.show(figure, "shortcuts", "Questions held out of training beside those trained on.")

# %%
gaps = {
    r: summary(by_both[r, "trained on"])[2] - summary(by_both[r, "held out"])[2] for r in RELATIONS
}
shortest = max(gaps, key=lambda r: gaps[r])
stay = [pages.text(summary(by_both[shortest, kind])[2]) for kind in ("trained on", "held out")]
pages.say(
    f"**A shortcut** shows where answers that were trained on outlive their country and held-out "
    f"ones do not. The gap is widest for the {shortest}: {stay[0]} of the questions trained on "
    f"keep their answer, {stay[1]} of those held out (few questions each, so this is a hint). When "
    f"the features take another country's values, though, most answers follow it either way: what "
    f"was learnt by heart seldom outvotes the country."
)

# %% [markdown]
# ## By which paths
#
# The graph of a held-out question for a currency, drawn; and for two questions of each kind, how
# much of the strength of the strongest paths from the city to the answer goes through a feature of
# the country.


# %%
def graph_of(question: Question) -> tla.Graph:
    """A question's attribution graph."""
    return tla.attribute(atlas.model, question.prompt, atlas.dictionary)


def members(question: Question) -> Step:
    """The features of a question's country."""
    return country[question.relation].members[question.country]


example = by_both["currency", "held out"][0].question
pages.show(
    draw_graph(group_by_step(graph_of(example), members(example)), COUNTRIES[example.country].name),
    "graph",
    f"The graph of “{example.prompt}”. Numbers: the influence on the answer that flows from one "
    "supernode to another. Other tokens, positions and errors are not drawn, nor flows below 1%.",
)

# %%
paths = {
    key: mean(share_of_paths(graph_of(r.question), members(r.question)) for r in some[:2])
    for key, some in by_both.items()
}
pages.table(
    ["asked for", *(f"through the country, {kind}" for kind in kinds)],
    [[r, *(paths[r, kind] for kind in kinds)] for r in RELATIONS],
)

# %%
pages.finish(
    "Countries",
    [
        pages.Test(f"country → another ({r})", len(swaps[r]), o.rate, o.control_rate)
        for r, o in outcomes.items()
    ]
    + [
        pages.Test(
            "country → another (currency, from a capital)",
            len(from_capital),
            by_capital.rate,
            by_capital.control_rate,
        )
    ],
    by_kind={
        kind: dict(zip(("followed", "unmoved", "stayed"), summary(some), strict=True))
        for kind, some in by_kind.items()
    },
    paths_through_the_country={kind: mean(paths[r, kind] for r in RELATIONS) for kind in kinds},
)
