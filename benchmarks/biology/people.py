# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Known and unknown people
#
# Asked for the sport of Michael Jordan, Atlas answers; asked for that of a first and a last name
# that it knows from two different people, it answers "unknown". So what it knows is the pair, not
# a name.
#
# **Hypothesis.** The features at the two names together stand for the person. Given another
# person's features, Atlas answers about that person, even where it was asked about a stranger;
# given only one name's, the pair is nobody's, and it answers "unknown".

# %%
from __future__ import annotations

import random
from itertools import chain

import concepts
import figures
import pages
from concepts import Concept, LabeledPrompts, Swap

import tl_attribution as tla
from tl_attribution.atlas import corpus
from tl_attribution.atlas.tables import PEOPLE

atlas = concepts.load()
FRAME, OTHER_FRAMES = "Fact: {} is", ("It is true that {} is", "Everyone knows that {} is")
FIRST, LAST, END = -3, -2, -1
KINDS = ("sport", "profession")
UNKNOWN = concepts.token(atlas, corpus.UNKNOWN)
N_PEOPLE, PUT_IN, STRANGERS = 20, 5, 60
rng = random.Random(0)

known = {kind: [(p.name, p.what) for p in PEOPLE if p.kind == kind] for kind in KINDS}
strangers = {}
for kind in KINDS:
    names = [f.key[1] for f in corpus.facts() if f.family == "stranger" and f.key[0] == kind]
    strangers[kind] = [(name, corpus.UNKNOWN) for name in rng.sample(names, STRANGERS)]


def prompt(kind: str, name: str, frame: str = FRAME) -> str:
    """The question about a person."""
    return frame.format(f"the {kind} of {name}")


def right(kind: str, people: list[tuple[str, str]]) -> float:
    """The share of people about whom Atlas answers rightly."""
    answered = concepts.answers(atlas, [prompt(kind, name) for name, _ in people])
    pairs = zip(answered, people, strict=True)
    return concepts.share(token == concepts.token(atlas, what) for token, (_, what) in pairs)


pages.table(
    ["asked for", "known people", "answered rightly", "strangers (a sample)", "said “unknown”"],
    [[k, len(known[k]), right(k, known[k]), STRANGERS, right(k, strangers[k])] for k in KINDS],
)

# %% [markdown]
# ## Two graphs
#
# A known person and a stranger with the same first name: the influence between the names'
# features, those at the end, and the answer.

# %%
person = known["sport"][0][0]
stranger = next(
    name for name, _ in (p for k in KINDS for p in strangers[k])
    if name.split()[0] == person.split()[0]
)  # fmt: skip
figure, both = figures.figure(11, 4.2, 2)
for axes, name in zip(both, (person, stranger), strict=True):
    graph = tla.attribute(atlas.model, prompt("sport", name), atlas.dictionary)
    last = len(graph.metadata.tokens) - 1
    answer = max((n for n in graph.nodes if n.kind == "logit"), key=lambda n: n.influence)
    position_of = {**dict(zip(name.split(), (FIRST, LAST), strict=True)), "the end": END}
    groups = {
        f"at {word}": [n for n in graph.nodes if n.kind == "feature" and n.position == last + 1 + p]
        for word, p in position_of.items()
    }
    answer_group = f"answer: {answer.label.strip()}"
    spots = [(0, 0), (1.2, 0), (2.1, 0.9), (2.1, 2)]
    shades = [figures.BLUE, figures.GREEN, figures.ORANGE, figures.GRAY]
    groups[answer_group] = [answer]
    boxes = {
        group: figures.Box(*spot, group, shade)
        for group, spot, shade in zip(groups, spots, shades, strict=True)
    }
    figures.circuit(axes, graph.group(groups), boxes)
both[0].set_position((0, 0, 0.5, 1))
both[1].set_position((0.5, 0, 0.5, 1))
pages.show(figure, "circuit", f"The sport of {person}, and of {stranger}: supernodes.")

# %% [markdown]
# ## What promotes "unknown", and what holds it back
#
# In the graph of the one answer "unknown", an edge from a feature at the end into the answer is
# what the feature adds to it, beside the mean of all answers. Summed by layer, for people and
# strangers:

# %%
PUSHED = 10


def pushes(kind: str, name: str) -> dict[int, tuple[float, float]]:
    """By layer: what features at the end add to "unknown", and what they take from it."""
    graph = tla.attribute(
        atlas.model, prompt(kind, name), atlas.dictionary, targets=[f" {corpus.UNKNOWN}"]
    )
    row = next(i for i, n in enumerate(graph.nodes) if n.kind == "logit")
    sums = dict.fromkeys(range(atlas.dictionary.n_layers), (0.0, 0.0))
    last = len(graph.metadata.tokens) - 1
    for column, node in enumerate(graph.nodes):
        if node.kind == "feature" and node.position == last:
            edge, (up, down) = float(graph.adjacency[row, column]), sums[node.layer]
            sums[node.layer] = (up + max(edge, 0.0), down + min(edge, 0.0))
    return sums


figure, (axes,) = figures.figure(7, 3.8)
layers = range(atlas.dictionary.n_layers)
net = {}
for shift, people, color, label in (
    (-0.2, known, figures.BLUE, "known people"),
    (0.2, strangers, figures.ORANGE, "strangers"),
):
    chosen = [("sport", name) for name, _ in rng.sample(people["sport"], PUSHED)]
    pushed = [pushes(*question) for question in chosen]
    ups, downs = (
        [sum(f[layer][side] for f in pushed) / PUSHED for layer in layers] for side in (0, 1)
    )
    places = [layer + shift for layer in layers]
    axes.bar(places, ups, 0.38, color=color, label=label)
    axes.bar(places, downs, 0.38, color=color, alpha=0.5)
    net[label] = sum(ups) + sum(downs)
axes.axhline(0, color=figures.INK, linewidth=0.8)
axes.set_xlabel("layer of the features at the end")
axes.set_ylabel("added to “unknown” (logits)")
axes.legend()
pages.show(
    figure, "unknown",
    f"What promotes “unknown” (above zero) and what holds it back (below, paler): means over "
    f"{PUSHED} people each.",
)  # fmt: skip
pages.table(["all features at the end together", "logits of “unknown”"],
            [[label, f"{value:+.2f}"] for label, value in net.items()])  # fmt: skip


# %% [markdown]
# ## Is there one feature for "known"?
#
# If one feature were on for strangers and off for known people, or the other way round, it would
# tell the two apart. How well the best one does (the mean of the shares it gets right on either
# side; half is chance):


# %%
def best_detector(position: int) -> float:
    """How well the best feature at a position tells known people from strangers."""
    on = []
    for people in (known, strangers):
        prompts = [prompt(kind, name) for kind in KINDS for name, _ in people[kind]]
        on.append((concepts.activations(atlas, prompts, (position,)) > 0).float().mean(0))
    return float(0.5 + 0.5 * (on[0] - on[1]).abs().max())


detectors = {"first name": FIRST, "last name": LAST, "the end": END}
best = {word: best_detector(position) for word, position in detectors.items()}
pages.table(["features at", "best single feature"], [[w, share] for w, share in best.items()])

# %% [markdown]
# ## One person in place of another
#
# Every person and every stranger of the sample is a class. The features that tell one are found
# in two phrasings, and the swaps are made in a third.


# %%
def find(kind: str) -> Concept:
    """The features that tell each person, known or not."""
    people = known[kind] + strangers[kind]
    rows = [
        (prompt(kind, n, frame), i) for frame in OTHER_FRAMES for i, (n, _) in enumerate(people)
    ]
    labeled = LabeledPrompts([prompt_text for prompt_text, _ in rows], [label for _, label in rows])
    return concepts.find_concept(atlas, [labeled], labeled, (FIRST, LAST, END), threshold=0.1)


people = {kind: known[kind] + strangers[kind] for kind in KINDS}
concept_of = {kind: find(kind) for kind in KINDS}
N_KNOWN = len(known["sport"])


def pairs_of(kind: str, from_stranger: bool) -> list[tuple[int, int]]:
    """Who is asked about and whose features are put in: another answer, no name shared."""
    pool = range(N_KNOWN, N_KNOWN + STRANGERS) if from_stranger else range(N_KNOWN)
    pairs = []
    for source in rng.sample(pool, N_PEOPLE // 2):
        name, what = people[kind][source]
        others = [
            j for j in range(N_KNOWN)
            if people[kind][j][1] != what and not {*name.split()} & {*people[kind][j][0].split()}
        ]  # fmt: skip
        pairs += [(source, j) for j in rng.sample(others, PUT_IN)]
    return pairs


pairs = {(kind, s): pairs_of(kind, s) for kind in KINDS for s in (False, True)}


def tried(from_stranger: bool, positions: tuple[int, ...], nobody: bool) -> concepts.Outcome:
    """Swaps at some positions. ``nobody``: the wanted answer is "unknown", else the other's."""
    parts = []
    for kind in KINDS:
        concept = concept_of[kind].within(positions=positions)
        swaps = []
        for i, j in pairs[kind, from_stranger]:
            expected = UNKNOWN if nobody else concepts.token(atlas, people[kind][j][1])
            swaps.append(Swap(prompt(kind, people[kind][i][0]), concept.swap(i, j), expected))
        parts.append(concepts.try_swaps(atlas, swaps, concept, **concepts.FREE))
    return concepts.Outcome(*(list(chain(*lists)) for lists in zip(*parts, strict=True)))


EVERYWHERE, NAMES = (FIRST, LAST, END), (FIRST, LAST)
done = {
    "known person → another's": tried(False, EVERYWHERE, nobody=False),
    "stranger → a known person's": tried(True, EVERYWHERE, nobody=False),
    "known person → another's, names only": tried(False, NAMES, nobody=False),
    "stranger → a known person's, names only": tried(True, NAMES, nobody=False),
}
pages.table(
    ["features", "swaps", "exactly the other's answer", "random features"],
    [[what, len(o.swapped), o.rate, o.control_rate] for what, o in done.items()],
)

# %% [markdown]
# ## Half a person
#
# Only one name's features of another known person make a pair that nobody has. The answer should
# be "unknown", though the words asked about still are those of a known person. "Unknown" is also
# what a name that is disturbed anyhow may end in, so here the control says how much of it is
# that:

# %%
half = {
    "first name's features": tried(False, (FIRST,), nobody=True),
    "last name's features": tried(False, (LAST,), nobody=True),
}
pages.table(
    ["of another known person", "swaps", "“unknown”", "random features: “unknown”"],
    [[what, len(o.swapped), o.rate, o.control_rate] for what, o in half.items()],
)

# %% [markdown]
# ## Known-name features, turned on for a stranger
#
# Instead of one person's features, those at the end that tell known people from strangers in the
# mean. If "known" were one thing, they would make Atlas name something for a stranger, and their
# opposite would make it say "unknown" about a known person. Last, a person's own features are
# turned off at both names.


# %%
def as_group(kind: str) -> Concept:
    """The features at the end that tell known people from strangers."""
    rows = [(prompt(kind, n), 0) for n, _ in known[kind]]
    rows += [(prompt(kind, n), 1) for n, _ in strangers[kind]]
    labeled = LabeledPrompts([prompt_text for prompt_text, _ in rows], [label for _, label in rows])
    return concepts.find_concept(atlas, [labeled], labeled, (END,), threshold=0.1)


KNOWN, STRANGE = 0, 1
rows = {"strangers made known: something named": [], "known made strange: “unknown”": [],
        "own features off: “unknown”": []}  # fmt: skip
control = {name: [] for name in rows}
size = []
for kind in KINDS:
    group = as_group(kind)
    size.append(group.size())
    some_strangers = rng.sample(range(N_KNOWN, N_KNOWN + STRANGERS), N_PEOPLE)
    some_known = rng.sample(range(N_KNOWN), N_PEOPLE)
    person_features = concept_of[kind].within(positions=NAMES)
    to_known, to_stranger = group.swap(STRANGE, KNOWN), group.swap(KNOWN, STRANGE)
    off = {
        i: [
            tla.Intervention.ablate(c.layer, c.position, c.feature)
            for c in person_features.swap(i, i)
        ]
        for i in some_known
    }
    for name, changes, concept in (
        ("strangers made known: something named", dict.fromkeys(some_strangers, to_known), group),
        ("known made strange: “unknown”", dict.fromkeys(some_known, to_stranger), group),
        ("own features off: “unknown”", off, person_features),
    ):
        swaps = [Swap(prompt(kind, people[kind][i][0]), c, UNKNOWN) for i, c in changes.items()]
        outcome = concepts.try_swaps(atlas, swaps, concept, **concepts.FREE)
        reversed_outcome = name.startswith("strangers")
        rows[name] += [s != reversed_outcome for s in outcome.swapped]
        control[name] += [s != reversed_outcome for s in outcome.control]
pages.table(
    ["change", "people", "happened", "random features"],
    [[n, len(r), concepts.share(r), concepts.share(control[n])] for n, r in rows.items()],
)

# %%
pages.finish(
    "Known and unknown people",
    [
        pages.Test(what, len(o.swapped), o.rate, o.control_rate)
        for what, o in done.items() if "names only" not in what
    ],
    names_only={w: [o.rate, o.control_rate] for w, o in done.items() if "names only" in w},
    half_a_person_is_unknown={what: [o.rate, o.control_rate] for what, o in half.items()},
    group_changes={n: [concepts.share(r), concepts.share(control[n])] for n, r in rows.items()},
    best_single_feature=best,
    net_push_on_unknown=net,
)  # fmt: skip
