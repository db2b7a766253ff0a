# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Days and months: counting round a circle
#
# "The day two days after Monday" is answered by counting from Monday, and "two days after
# Saturday" by counting past the end of the week. Atlas knows every such question for days and
# months.
#
# **Hypothesis.** Which way to count (after or before), how far (two) and where to start (Monday)
# are held apart, by features at these words, and put together further on. If so, changing one of
# the three gives the answer to the question that has it, counted round the circle, whatever the
# other two are.

# %%
from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import concepts
import explain
import figures
import pages
import torch
from concepts import Concept, LabeledPrompts, Outcome, Swap

import tl_attribution as tla
from tl_attribution.atlas.tables import DAYS, MONTHS, NUMBER_WORDS

atlas = concepts.load()
CIRCLES = {"day": DAYS, "month": MONTHS}
PARTS = {"start": -2, "offset": -5, "direction": -3}
FRAME, OTHER_FRAMES = "Fact: {} is", ("It is true that {} is", "Everyone knows that {} is")
SAMPLE = {"day": 24, "month": 12}
DIRECTIONS, FEW = 50, 8


class Count(NamedTuple):
    """A question: ``offset`` steps from ``start``, back if ``direction`` is 0."""

    unit: str
    start: int
    offset: int
    direction: int

    def prompt(self, frame: str = FRAME) -> str:
        """The question in words."""
        words = "after" if self.direction else "before"
        number, name = NUMBER_WORDS[self.offset - 1], CIRCLES[self.unit][self.start]
        return frame.format(f"the {self.unit} {number} {self.unit}s {words} {name}")

    def place(self) -> int:
        """Where counting ends, before it is brought back into the circle."""
        return self.start + (self.offset if self.direction else -self.offset)

    def answer(self) -> int:
        """Where counting ends on the circle."""
        return self.place() % len(CIRCLES[self.unit])

    def wraps(self) -> bool:
        """Whether counting leaves the week or the year."""
        return self.place() != self.answer()


counts = {
    unit: [
        Count(unit, start, offset, direction)
        for start in range(len(names))
        for offset in range(2, len(names))
        for direction in (0, 1)
    ]
    for unit, names in CIRCLES.items()
}
tokens = {u: [concepts.token(atlas, name) for name in names] for u, names in CIRCLES.items()}
right = {
    unit: concepts.share(
        token == tokens[unit][c.answer()]
        for c, token in zip(some, concepts.answers(atlas, [c.prompt() for c in some]), strict=True)
    )
    for unit, some in counts.items()
}
pages.table(
    ["circle", "questions", "answered rightly"], [[u, len(counts[u]), right[u]] for u in counts]
)

# %% [markdown]
# ## The graph of one question
#
# The features of the pruned graph, grouped by the word at which they are active. An arrow says
# which share of all that comes into the answer flows between two groups.

# %%
example = Count("day", DAYS.index("Saturday"), 2, 1)
graph = tla.attribute(atlas.model, example.prompt(), atlas.dictionary).prune()
prompt = graph.metadata.tokens
end = len(prompt) - 1
answer = max((n for n in graph.nodes if n.kind == "logit"), key=lambda n: n.influence)
words = {f"at “{prompt[end + 1 + p].strip()}”": end + 1 + p for p in (-5, -3, -2, -1)}
groups = {
    name: [n for n in graph.nodes if n.kind == "feature" and n.position == position]
    for name, position in words.items()
}
answer_group = f"answer: {answer.label.strip()}"
groups = {name: nodes for name, nodes in groups.items() if nodes} | {answer_group: [answer]}
spots = dict(
    zip((*words, answer_group), [(0, 0), (1.1, 0), (2.2, 0), (3, 1), (3, 2.2)], strict=True)
)
shades = [figures.GREEN, figures.PURPLE, figures.BLUE, figures.ORANGE, figures.GRAY]
colors = dict(zip((*words, answer_group), shades, strict=True))
figure, (axes,) = figures.figure(8, 4)
boxes = {name: figures.Box(*spots[name], name, colors[name]) for name in groups}
figures.circuit(axes, graph.group(groups), boxes)
pages.show(figure, "circuit", f"“{example.prompt()}”: the supernodes of its pruned graph.")

# %% [markdown]
# ## What the features tell
#
# Every feature that varies over the table is given the simplest description that explains its
# activations: the class means of a description with few classes must explain nearly as much of
# the variance as those of the best one, and the best at least half.

# %%
LIVE = 0.01
KINDS = {
    "direction": figures.PURPLE, "offset": figures.GREEN, "start": figures.BLUE,
    "direction and offset": figures.SKY, "start and direction": "#56789A",
    "start and offset": "#F0E442", "answer": figures.ORANGE, explain.OTHER: figures.GRAY,
}  # fmt: skip


def kinds_by_position(unit: str) -> dict[int, Counter[str]]:
    """What the features at each word tell: position → kinds."""
    some, n = counts[unit], len(CIRCLES[unit])
    start, offset, direction = (
        torch.tensor([getattr(c, part) for c in some]) for part in ("start", "offset", "direction")
    )
    hypotheses = {
        "direction": direction,
        "offset": offset,
        "start": start,
        "direction and offset": direction * n + offset,
        "start and direction": start * 2 + direction,
        "start and offset": start * n + offset,
        "answer": torch.tensor([c.answer() for c in some]),
    }
    positions = (*PARTS.values(), -1)
    activations = concepts.activations(atlas, [c.prompt() for c in some], positions)
    kinds = {}
    for at, position in enumerate(positions):
        values = activations[:, at].flatten(1)
        varies = ((values > 0).float().mean(0) > LIVE) & (values.std(0) > 1e-3)
        kinds[position] = Counter(explain.simplest(values[:, varies], hypotheses)[0])
    return kinds


kinds = {unit: kinds_by_position(unit) for unit in CIRCLES}
figure, both = figures.figure(9, 4, 2)
for axes, (unit, by_position) in zip(both, kinds.items(), strict=True):
    places = {"“two”": -5, "“after”": -3, "“Monday”" if unit == "day" else "“May”": -2, "“is”": -1}
    bottom = [0] * len(places)
    for kind, color in KINDS.items():
        heights = [by_position[p][kind] for p in places.values()]
        axes.bar(list(places), heights, bottom=bottom, color=color, label=kind)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axes.set_title(f"{unit}s")
    axes.set_ylabel("features")
both[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
pages.show(figure, "kinds", "How many features at each word tell what, all layers together.")

# %% [markdown]
# ## Changing one part
#
# The features that tell the values of a part are found at its word on two phrasings; the swaps
# are made on a third. They get the mean values of another start, offset or direction. Then the
# answer is known: that of the other question. The questions are a fixed sample; each is tried
# with every other value of the part.


# %%
def find(unit: str, part: str) -> Concept:
    """The features that tell the values of a part, at its word."""
    first = 2 if part == "offset" else 0
    rows = [(c.prompt(f), getattr(c, part) - first) for f in OTHER_FRAMES for c in counts[unit]]
    labeled = LabeledPrompts([prompt for prompt, _ in rows], [label for _, label in rows])
    return concepts.find_concept(atlas, [labeled], labeled, (PARTS[part],), threshold=0.1)


def other_values(count: Count, part: str) -> list[Count]:
    """The same question with every other value of a part that changes the answer."""
    values = {getattr(c, part) for c in counts[count.unit]}
    others = [count._replace(**{part: v}) for v in sorted(values)]
    return [o for o in others if o.answer() != count.answer()]


def swaps_of(some: list[Count], part: str, concept: Concept) -> tuple[list[Swap], list[Count]]:
    """All swaps of a part in these questions, and the questions that have the other value."""
    first = 2 if part == "offset" else 0
    swaps, others = [], []
    for count in some:
        for other in other_values(count, part):
            changes = concept.swap(getattr(count, part) - first, getattr(other, part) - first)
            swaps.append(Swap(count.prompt(), changes, tokens[count.unit][other.answer()]))
            others.append(other)
    return swaps, others


sample = {u: random.Random(0).sample(some, SAMPLE[u]) for u, some in counts.items()}
turned = {u: random.Random(2).sample(some, DIRECTIONS) for u, some in counts.items()}
concept_of = {(unit, part): find(unit, part) for unit in CIRCLES for part in PARTS}
outcomes: dict[tuple[str, str], Outcome] = {}
wraps: dict[tuple[str, str], list[bool]] = {}
for (unit, part), concept in concept_of.items():
    some = sample[unit] if part != "direction" else turned[unit]
    swaps, others = swaps_of(some, part, concept)
    outcomes[unit, part] = concepts.try_swaps(atlas, swaps, concept, **concepts.FREE)
    wraps[unit, part] = [other.wraps() for other in others]
names = [f"{unit}s:\n{part}" for unit, part in outcomes]
figure, (axes,) = figures.figure(8, 3.6)
figures.beside_control(
    axes, names, [o.rate for o in outcomes.values()], [o.control_rate for o in outcomes.values()]
)
pages.show(figure, "rates", "How often the answer is exactly that of the other question.")


# %%
def within(key: tuple[str, str], wrapped: bool) -> list[bool]:
    """The swaps whose counting leaves the circle, or those whose does not."""
    pairs = zip(outcomes[key].swapped, wraps[key], strict=True)
    return [swapped for swapped, past in pairs if past == wrapped]


pages.table(
    ["circle", "changed", "swaps", "features", "exact answer", "not past the end", "past the end",
     "random features"],
    [
        [*key, len(o.swapped), round(concept_of[key].size()), o.rate,
         concepts.share(within(key, False)), concepts.share(within(key, True)), o.control_rate]
        for key, o in outcomes.items()
    ],
)  # fmt: skip

# %% [markdown]
# "Past the end" are the questions whose counting leaves the week or the year (Saturday and two
# days).
#
# **Attention has to be free.** If what is swapped also works through where attention heads look,
# the same swaps do less with attention patterns frozen:

# %%
frozen: dict[str, tuple[float, float]] = {}
for part in PARTS:
    some = (turned if part == "direction" else sample)["day"][:FEW]
    swaps, _ = swaps_of(some, part, concept_of["day", part])
    done = concepts.outcomes(atlas, swaps)
    free = outcomes["day", part].swapped[: len(swaps)]
    stuck = concepts.share(out == s.expected for out, s in zip(done, swaps, strict=True))
    frozen[part] = concepts.share(free), stuck
pages.table(
    [f"changed ({FEW} questions about days)", "attention free", "attention frozen"],
    [[part, *rates] for part, rates in frozen.items()],
)

# %% [markdown]
# ## Shared by days and months
#
# Offset and direction mean the same for days and for months, so Atlas could have one set of
# features for both. Counted are the features that tell one value or another, and how many tell
# the same value in both circles.

# %%
OFFSETS = len(DAYS) - 2
rows = []
for part in ("offset", "direction"):
    day, month = (
        concept_of[unit, part].members[: OFFSETS if part == "offset" else 2] for unit in CIRCLES
    )
    for layer in range(atlas.dictionary.n_layers):
        d, m = day[:, :, layer], month[:, :, layer]
        both_have, any_has = int((d & m).sum()), int((d | m).sum())
        rows.append([part, layer, int(d.sum()), int(m.sum()), both_have,
                     both_have / any_has if any_has else "–"])  # fmt: skip
pages.table(["part", "layer", "days", "months", "both", "both, of all"], rows)
shared = {
    part: sum(r[4] for r in rows if r[0] == part)
    / sum(r[2] + r[3] - r[4] for r in rows if r[0] == part)
    for part in ("offset", "direction")
}

# %% [markdown]
# The stronger test: take the features and the values from the *days*, and put them into questions
# about *months*. If the features are shared in what they do, the months are counted by them.

# %%
carried: dict[str, Outcome] = {}
for part in ("offset", "direction"):
    some = [c for c in counts["month"] if c.offset < len(DAYS)]
    some = random.Random(1).sample(some, DIRECTIONS if part == "direction" else FEW)
    pairs = [
        (count, other)
        for count in some
        for other in other_values(count, part)
        if other.offset < len(DAYS)
    ]
    first = 2 if part == "offset" else 0
    day = concept_of["day", part]
    swaps = [
        Swap(
            count.prompt(),
            day.swap(getattr(count, part) - first, getattr(other, part) - first),
            tokens["month"][other.answer()],
        )
        for count, other in pairs
    ]
    carried[part] = concepts.try_swaps(atlas, swaps, day, **concepts.FREE)
pages.table(
    ["days' features in months", "swaps", "exact month", "random features"],
    [[part, len(o.swapped), o.rate, o.control_rate] for part, o in carried.items()],
)

# %%
tests = [
    pages.Test(f"{part} of {unit}s", len(o.swapped), o.rate, o.control_rate)
    for (unit, part), o in outcomes.items()
]
pages.finish(
    "Days and months",
    tests,
    answered_rightly=right,
    past_the_end={f"{u}s: {p}": concepts.share(within((u, p), True)) for u, p in outcomes},
    attention_free_and_frozen=frozen,
    shared_features=shared,
    days_features_in_months={p: [o.rate, o.control_rate] for p, o in carried.items()},
)
