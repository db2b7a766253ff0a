# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Two hops: Dallas, Texas, Austin
#
# "The capital of the state containing Dallas" names neither Texas nor Austin. Atlas was never
# shown this question, only the facts that it rests on.
#
# **Hypothesis.** Features for the state stand between the city and the capital. Then two things
# must hold: the attribution graph leads through them, and when they are given the values of
# another state, Atlas answers with that state's capital.

# %%
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import concepts
import figures
import pages
from concepts import LabeledPrompts, Swap
from two_hop_figure import draw_graph, group_by_step, share_of_paths

import tl_attribution as tla
from tl_attribution.atlas.tables import STATES

atlas = concepts.load()
PROMPT = "Fact: the capital of the state containing {} is"
STATE = "Fact: the state containing {} is"
REGION = "Fact: the region of the state containing {} is"
ABOUT = (
    ("Fact: the state whose capital is {} is", "capital"),
    ("Fact: the capital of {} is", "name"),
    ("Fact: the region of {} is", "name"),
)
CITY, END = -2, -1
THRESHOLD = 0.05
TELLS = 0.7

N = len(STATES)
TEXAS = [s.name for s in STATES].index("Texas")
capitals = [concepts.token(atlas, s.capital) for s in STATES]

# %% [markdown]
# ## The features of a state
#
# One city of each state is set aside for the test: Dallas, and for the other states one whose
# question was held out of training, where there is one. A state's features are looked for with all
# the *other* cities, and on *another* question: "the state containing … is", at the city and at
# the last word. It does not ask for a capital, so a feature that merely says "Austin" has no
# reason to be among them.
#
# A feature belongs to a state if its mean activation there is higher than in the other states, by
# more than a threshold, as a share of its highest mean in any state. A stricter choice is tried
# further down: features that tell the state in this question *and* when its region is asked for.

# %%
held_out = concepts.held_out()


def set_aside(i: int) -> str:
    """The city whose question is tested."""
    if i == TEXAS:
        return "Dallas"
    unseen = [c for c in STATES[i].cities if PROMPT.format(c) in held_out]
    return (unseen or list(STATES[i].cities))[0]


tested = [set_aside(i) for i in range(N)]
others = [(c, i) for i, s in enumerate(STATES) for c in s.cities if c not in tested]


def about_others(question: str) -> LabeledPrompts:
    """A question about every city that is not set aside."""
    return LabeledPrompts([question.format(city) for city, _ in others], [i for _, i in others])


def state_features(threshold: float, *questions: str) -> concepts.Concept:
    """What tells the states apart, with the values that it has when the capital is asked."""
    labeled = [about_others(question) for question in questions or (STATE,)]
    return concepts.find_concept(atlas, labeled, about_others(PROMPT), (CITY, END), threshold)


state = state_features(THRESHOLD)
prompts = [PROMPT.format(city) for city in tested]
right = [a == b for a, b in zip(concepts.answers(atlas, prompts), capitals, strict=True)]
unseen = [prompt in held_out for prompt in prompts]
pages.table(
    ["questions set aside", "never trained on", "answered rightly", "features of a state, mean"],
    [[N, sum(unseen), concepts.share(right), f"{state.size():.0f}"]],
)

# %% [markdown]
# ## One feature for one state
#
# Is there a feature that is active where a prompt is about Texas, and silent where it is about
# another state? Here every fact of every state is asked: the state, capital and region of each
# city but those set aside, the state of the capital, and what is known of the state by its name. A
# feature counts as active above 30% of its largest activation on any of these prompts; *precision*
# is the share of the prompts where it is active that are about the state, *recall* the share of
# the state's prompts where it is active.

# %%
facts = LabeledPrompts(
    [q.format(c) for q in (PROMPT, STATE, REGION) for c, _ in others]
    + [q.format(getattr(s, what)) for q, what in ABOUT for s in STATES],
    [i for _ in range(3) for _, i in others] + [i for _ in ABOUT for i in range(N)],
)
active = concepts.activations(atlas, facts.prompts, (CITY, END))
state_scores = concepts.class_scores(active, facts.labels)
graph = tla.attribute(atlas.model, PROMPT.format("Dallas"), atlas.dictionary)
features = sorted(
    (n for n in graph.nodes if n.kind == "feature"), key=lambda n: n.influence, reverse=True
)
place = {(n.position - len(graph.metadata.tokens), n.layer, n.index): number
         for number, n in enumerate(features, 1)}  # fmt: skip


def best(i: int, at: int) -> tuple[float, int, int]:
    """How well (F1) the feature that tells a state best at a position does so, its layer and
    index."""
    f1 = state_scores.f1[i, at]
    layer, feature = divmod(int(f1.argmax()), f1.shape[1])
    return float(f1[layer, feature]), layer, feature


def detector(at: int) -> dict[str, Any]:
    """The feature that tells Texas best at a position."""
    f1, layer, feature = best(TEXAS, at)
    return {
        "layer": layer,
        "feature": feature,
        "precision": float(state_scores.precision[TEXAS, at, layer, feature]),
        "recall": float(state_scores.recall[TEXAS, at, layer, feature]),
        "f1": f1,
        "place": place.get(((CITY, END)[at], layer, feature)),
    }


detectors = {"at the city": detector(0), "at the end": detector(1)}
states_told = [sum(best(i, at)[0] >= TELLS for i in range(N)) for at in (0, 1)]
pages.table(
    ["", "the feature that tells Texas best", "precision", "recall",
     f"place by influence in the Dallas graph, of {len(features)}",
     f"states that a feature tells with F1 of {TELLS:g} or more"],
    [[where, f"layer {d['layer']}, feature {d['feature']}", d["precision"], d["recall"],
      d["place"] or "not active", f"{n} of {N}"]
     for (where, d), n in zip(detectors.items(), states_told, strict=True)],
)  # fmt: skip

# %% [markdown]
# ## What the graph says
#
# The attribution graph of the Dallas question, its features in five supernodes: those of Texas and
# all others, at the city and at the end, and those of the words before the city.

# %%
texas = state.members[TEXAS]
pages.show(
    draw_graph(group_by_step(graph, texas), "Texas"),
    "graph",
    "The Dallas question's graph. Numbers: the influence on the answer that flows from one "
    "supernode to another. Other tokens, positions and errors are not drawn, nor flows below 1%.",
)

# %%
via_state = share_of_paths(graph, texas)
scores = graph.scores()
pages.table(
    ["strength of the paths from “Dallas” to “Austin” that lead through Texas",
     "replacement score", "completeness"],
    [[via_state, f"{scores.replacement:.3f}", f"{scores.completeness:.3f}"]],
)  # fmt: skip

# %% [markdown]
# ## Swapping the state
#
# In the run on one city, the features of its state and those of another are held at what they are,
# on average, for the other cities of that other state, when the capital is asked. Attention stays
# as it was; everything else is recomputed. The control changes as many random features, in the
# same layers and positions, to the same values, drawn from those that are active on such
# questions.


# %%
def all_swaps(concept: concepts.Concept, sources: list[int]) -> list[Swap]:
    """From each of these states to every other."""
    return [
        Swap(prompts[i], concept.swap(i, j), capitals[j])
        for i in sources
        for j in range(N)
        if i != j
    ]


swaps = all_swaps(state, list(range(N)))
outcome = concepts.try_swaps(atlas, swaps, state)
from_unseen = [unseen[i] for i in range(N) for j in range(N) if i != j]
by_source = {
    what: [
        concepts.share(f for f, u in zip(flags, from_unseen, strict=True) if u == kind)
        for flags in (outcome.swapped, outcome.control)
    ]
    for what, kind in (("questions never trained on", True), ("questions trained on", False))
}
pages.table(
    ["swap on", "ordered pairs", "the other state's capital", "random features"],
    [
        ["all questions", len(swaps), outcome.rate, outcome.control_rate],
        *([what, from_unseen.count(i == 0), *rates]
          for i, (what, rates) in enumerate(by_source.items())),
    ],
)  # fmt: skip

# %%
grid = [[float("nan")] * N for _ in range(N)]
pairs = iter(outcome.swapped)
for i in range(N):
    for j in range(N):
        if i != j:
            grid[i][j] = float(next(pairs))
figure, (axes,) = figures.figure(9, 8.8)
figures.grid(axes, grid, [f"{c}, {s.name}" for c, s in zip(tested, STATES, strict=True)],
             [s.capital for s in STATES])  # fmt: skip
axes.set_xlabel("capital wanted")
axes.set_ylabel("city in the question, and its state")
pages.show(
    figure, "pairs", "All ordered pairs of states. Blue: the other state's capital was the answer."
)

# %% [markdown]
# ## How much it takes
#
# The same from a few states only, with fewer features (a higher threshold), with the features of
# the first layers only, and at one of the two positions only.

# %%
FEW = [TEXAS, *(i for i in range(N) if unseen[i] and i != TEXAS)][:4]


def rate(concept: concepts.Concept) -> float:
    """Success of the swaps from the few states."""
    some = all_swaps(concept, FEW)
    done = zip(concepts.outcomes(atlas, some), some, strict=True)
    return concepts.share(answer == s.expected for answer, s in done)


by_size = [(t, c.size(), rate(c)) for t in (0.8, 0.5, 0.2, 0.1, THRESHOLD)
           for c in [state_features(t)]]  # fmt: skip
pages.table(
    ["threshold", "features of a state, mean", "wanted answer"],
    [[f"{threshold:g}", f"{size:.0f}", r] for threshold, size, r in by_size],
)

# %%
parts = {
    **{f"layers 0–{top}" if top else "layer 0": state.within(layers=range(top + 1))
       for top in range(atlas.dictionary.n_layers)},
    "when the region is asked, too": state_features(THRESHOLD, STATE, REGION),
    f"that tell it alone (F1 of {TELLS:g})": replace(state, members=state_scores.f1 >= TELLS),
    "at the city": state.within(positions=[CITY]),
    "at the end": state.within(positions=[END]),
}  # fmt: skip
by_part = {name: (part.size(), rate(part)) for name, part in parts.items()}
pages.table(
    ["features", "of a state, mean", "wanted answer"],
    [[name, f"{size:.0f}", r] for name, (size, r) in by_part.items()],
)

# %%
figure, (left, right_axes) = figures.figure(9, 3.4, 2)
left.plot([s for _, s, _ in by_size], [r for *_, r in by_size], "o-", color=figures.BLUE)
left.set_xlabel("features of a state, mean")
left.set_title("More features")
figures.percent(left, "wanted answer")
right_axes.barh(list(by_part), [r for _, r in by_part.values()], color=figures.BLUE)
right_axes.invert_yaxis()
right_axes.set_title("Some of them only")
figures.percent(right_axes, "wanted answer", "x")
pages.show(
    figure,
    "size",
    "What a swap needs: many features, and those of both positions; each layer adds to it.",
)

# %% [markdown]
# ## When it fails
#
# What Atlas answers in place of the wanted capital.

# %%
capital_of = dict(zip(prompts, capitals, strict=True))
kinds = Counter(
    "the city's own capital, unmoved"
    if answer == capital_of[swap.prompt]
    else "a third state's capital"
    if answer in capitals
    else "something else"
    for swap, answer in zip(swaps, outcome.answers, strict=True)
    if answer != swap.expected
)
pages.table(["answer", "swaps"], kinds.most_common())

# %%
pages.finish(
    "Two hops",
    [pages.Test("state → another state", len(swaps), outcome.rate, outcome.control_rate)],
    features_of_a_state=state.size(),
    features_in_the_graph=len(features),
    texas=detectors,
    states_told=states_told,
    paths_through_the_state=via_state,
    never_trained_on=by_source["questions never trained on"],
    trained_on=by_source["questions trained on"],
    by_part={name: r for name, (_, r) in by_part.items()},
)
