# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Addition: how a model that has no digits adds
#
# Atlas has seen most of the sums of two numbers below a hundred, and adds those that it has never
# seen too. A number is one token for it, so that it is never told that 36 ends in a 6. The model
# of the paper adds along two ways: one finds about how large the sum is, one looks up its ones
# digit (what ends in 6 and what ends in 9 give what ends in 5).
#
# **Hypothesis.** Features at "=" hold the sum. If Atlas uses the paper's ways, some of them
# depend on the ones digits alone. Whatever they are, giving them the values of another sum in the
# same ten makes Atlas answer with exactly that wrong sum.

# %%
from __future__ import annotations

import random
from collections import Counter
from typing import Any

import concepts
import explain
import figures
import pages
import torch
from concepts import Concept, Swap

import tl_attribution as tla
from tl_attribution.atlas import corpus

atlas = concepts.load()
N, END = 100, -1
FRAME = corpus.SUM_FRAMES[0]
a = torch.arange(N).repeat_interleave(N)
b = torch.arange(N).repeat(N)
total = a + b
SUMS = int(total.max()) + 1
tokens = [concepts.token(atlas, str(s)) for s in range(SUMS)]


def prompt(place: int) -> str:
    """The question at a place of the table."""
    return FRAME.format(a=int(a[place]), b=int(b[place]))


sampled = random.Random(36).sample(range(N * N), 500)
unseen = concepts.held_out()
answered = concepts.answers(atlas, [prompt(p) for p in sampled])
ok = {p: token == tokens[total[p]] for p, token in zip(sampled, answered, strict=True)}
right = {
    "seen in training": [good for p, good in ok.items() if prompt(p) not in unseen],
    "never seen": [good for p, good in ok.items() if prompt(p) in unseen],
}
pages.table(
    ["sums (a sample)", "asked", "answered rightly"],
    [[name, len(flags), concepts.share(flags)] for name, flags in right.items()],
)

# %% [markdown]
# ## The graph of one sum
#
# The features of the pruned graph, grouped by where they are and, at "=", by layer.

# %%
graph = tla.attribute(atlas.model, FRAME.format(a=36, b=59), atlas.dictionary).prune()
last = len(graph.metadata.tokens) - 1
answer = max((n for n in graph.nodes if n.kind == "logit"), key=lambda n: n.influence)


def features_at(position: int, layers: range | None = None) -> list[tla.Node]:
    """The graph's features at a position, in some layers."""
    return [
        n for n in graph.nodes
        if n.kind == "feature" and n.position == position and (layers is None or n.layer in layers)
    ]  # fmt: skip


depth = atlas.dictionary.n_layers
parts = {
    "the number 36": [n for n in graph.nodes if n.kind == "token" and n.position == last - 3],
    "the number 59": [n for n in graph.nodes if n.kind == "token" and n.position == last - 1],
    "features at 36": features_at(last - 3), "features at 59": features_at(last - 1),
    "at “=”, early": features_at(last, range(2)),
    "at “=”, late": features_at(last, range(2, depth)),
    f"answer: {answer.label.strip()}": [answer],
}  # fmt: skip
spots = [(0, 0), (2, 0), (0.1, 1), (1.9, 1), (1, 1.5), (1, 2.4), (1, 3.3)]
shades = [figures.BLUE, figures.GREEN] * 2 + [figures.ORANGE] * 2 + [figures.GRAY]
boxes = {
    name: figures.Box(*spot, name, shade)
    for (name, nodes), spot, shade in zip(parts.items(), spots, shades, strict=True)
    if nodes
}
figure, (axes,) = figures.figure(7.5, 6)
figures.circuit(axes, graph.group({name: parts[name] for name in boxes}), boxes)
pages.show(figure, "circuit", "“calc: 36 + 59 =”: the supernodes of its pruned graph.")

# %% [markdown]
# ## Operand plots
#
# A feature's activation at "=", for every pair of operands, is a picture of N × N points. Each
# feature is put in a class: the description with the fewest classes of sums that explains nearly
# as much of its picture as the best one, and the best at least half. Features of the sum are told
# apart by where their mean is at least a fifth of its largest: on one narrow stretch of sums, one
# wide one, or several.

# %%
ones, tens = (a % 10, b % 10), (a // 10, b // 10)
HYPOTHESES = {
    "ones digit of the sum": total % 10,
    "carry": (ones[0] + ones[1] >= 10).long(),
    "ones digit of one operand": ones[0], "ones digit of the other": ones[1],
    "ones digits (_6 + _9)": ones[0] * 10 + ones[1],
    "tens of one operand": tens[0], "tens of the other": tens[1],
    "tens (3_ + 5_)": tens[0] * 10 + tens[1],
    "tens of the sum": total // 10,
    "one operand": a, "the other operand": b,
    "sum": total,
}  # fmt: skip
NARROW, LIVE = 5, 0.001
activations = concepts.activations(atlas, [prompt(p) for p in range(N * N)], (END,))
counted = torch.bincount(total)


def shape(values: torch.Tensor) -> str:
    """What kind of feature of the sum it is, by where on the sums it is active."""
    means = torch.zeros(SUMS).index_add_(0, total, values) / counted
    on = means > 0.2 * means.max()
    runs = int((on[1:] & ~on[:-1]).sum()) + int(on[0])
    if runs > 1:
        return "several sums"
    return "one sum, narrow" if int(on.sum()) <= NARROW else "a band of sums"


CLASS: dict[tuple[int, int], str] = {}
SCORE: dict[tuple[int, int], float] = {}
digits: list[float] = []
for layer in range(depth):
    values = activations[:, 0, layer]
    live = ((values > 0).float().mean(0) > LIVE).nonzero().flatten()
    names, scores = explain.simplest(values[:, live], HYPOTHESES)
    digits += scores[list(HYPOTHESES).index("ones digit of the sum")].tolist()
    for column, (feature, name) in enumerate(zip(live.tolist(), names, strict=True)):
        if name in ("sum", "tens of the sum"):
            name = shape(values[:, feature])
        elif name != explain.OTHER:
            name = "both operands near" if name == "tens (3_ + 5_)" else name
        CLASS[layer, feature] = name
        SCORE[layer, feature] = float(scores[:, column].max())
kinds = [kind for kind, _ in Counter(CLASS.values()).most_common()]
pages.table(
    ["class", *(f"layer {layer}" for layer in range(depth))],
    [[k, *(sum(v == k and key[0] == layer for key, v in CLASS.items()) for layer in range(depth))]
     for k in kinds],
)  # fmt: skip
pages.say(
    f"The ones digit of the sum explains at most {max(digits):.1%} of any feature's picture, "
    f"on average {sum(digits) / len(digits):.1%}."
)

# %% [markdown]
# A feature that follows the ones digit would be a row of its own above. The pictures get finer
# from layer to layer: places where both operands are about so large, then bands of sums, then
# lines.

# %%
SHOWN = 6
sizes = Counter(CLASS.values())
gallery = [k for k in kinds if k != explain.OTHER and sizes[k] >= SHOWN][:5]
figure, axes_grid = figures.plt.subplots(len(gallery), SHOWN, figsize=(9, 1.75 * len(gallery)))
for row, kind in zip(axes_grid, gallery, strict=True):
    best = sorted((k for k, v in CLASS.items() if v == kind), key=lambda k: -SCORE[k])[:SHOWN]
    for axes in row:
        axes.set_axis_off()
    for axes, (layer, feature) in zip(row, best, strict=False):
        axes.set_axis_on()
        axes.imshow(activations[:, 0, layer, feature].view(N, N), origin="lower", cmap="cividis")
        axes.set_title(f"layer {layer}: {SCORE[layer, feature]:.0%}", fontsize=8)
        axes.set_xticks([0, 99])
        axes.set_yticks([0, 99])
        axes.tick_params(labelsize=7, length=2)
    row[0].set_axis_on()
    row[0].set_ylabel(kind.replace(" ", "\n", 2), fontsize=8)
pages.show(
    figure, "gallery",
    "The best explained features of the most frequent classes: activation at “=”, second operand "
    "to the right, first operand upwards, and the share of the picture that the class explains.",
)  # fmt: skip

# %% [markdown]
# ## Exact wrong sums
#
# For a fixed sample of sums, the features active at "=" get the values that they have for another
# sum of the same ten: their mean over the pairs with that sum whose first operand is at most five
# off. The answer should be that wrong sum and no other. Then the same with one group of features
# alone, and with attention patterns frozen.

# %%
NEAR, QUESTIONS, FEW = 5, 22, 11
concept = Concept(
    (END,), activations.new_zeros(0), torch.zeros(0, dtype=torch.bool), (activations > 0).any(0)
)  # only for the control: the active features


def wrong_sums(place: int) -> list[int]:
    """The other sums of the same ten."""
    first = int(total[place]) // 10 * 10
    return [s for s in range(first, min(first + 10, SUMS)) if s != int(total[place])]


def changed(place: int, target: int, group: set[str] | None = None) -> list[tla.Intervention]:
    """The features of the group (None: all) held at their mean over pairs near by with that sum."""
    near = (total == target) & ((a - a[place]).abs() <= NEAR)
    values = activations[near, 0].mean(0)
    active = (values > 0) | (activations[place, 0] > 0)
    return [
        tla.Intervention(layer, END, feature, float(values[layer, feature]))
        for layer, feature in active.nonzero().tolist()
        if group is None or CLASS.get((layer, feature), explain.OTHER) in group
    ]


def swaps_with(places: list[int], group: set[str] | None = None) -> list[Swap]:
    """Every wrong sum for each of these questions, with a group of features."""
    swaps = []
    for place in places:
        for target in wrong_sums(place):
            if bool(((total == target) & ((a - a[place]).abs() <= NEAR)).any()):
                swaps.append(Swap(prompt(place), changed(place, target, group), tokens[target]))
    return [swap for swap in swaps if swap.changes]


places = random.Random(1).sample(range(N * N), QUESTIONS)
whole = concepts.try_swaps(atlas, swaps_with(places), concept, **concepts.FREE)
OF_SUM = {"one sum, narrow", "a band of sums", "several sums"}
groups = {
    "features of the sum": OF_SUM,
    "both operands near": {"both operands near"},
    "none of these": {explain.OTHER},
    "all but those of the sum": set(kinds) - OF_SUM,
}
pages.table(
    ["all features at “=”", "swaps", "exactly the wrong sum", "random features"],
    [["attention free", len(whole.swapped), whole.rate, whole.control_rate]],
)


def tried(group: set[str] | None, mode: dict[str, Any]) -> tuple[float, float]:
    """Features a swap, and how often the answer is exactly the wrong sum, on some questions."""
    some = swaps_with(places[:FEW], group)
    done = concepts.outcomes(atlas, some, **mode)
    sizes = [len(swap.changes) for swap in some]
    good = concepts.share(out == s.expected for out, s in zip(done, some, strict=True))
    return sum(sizes) / len(sizes), good


all_few = swaps_with(places[:FEW])
size_all = sum(len(swap.changes) for swap in all_few) / len(all_few)
few = {
    "all at “=”": (size_all, concepts.share(whole.swapped[: len(all_few)])),
    "all at “=”, attention frozen": tried(None, concepts.MODE),
    **{name: tried(group, concepts.FREE) for name, group in groups.items()},
}
pages.say(
    f"The same on the first {FEW} questions of the sample ({len(all_few)} swaps), for comparison:"
)
pages.table(
    ["features changed", "features a swap", "exactly the wrong sum"],
    [[name, round(size), rate] for name, (size, rate) in few.items()],
)

# %%
number = {token: s for s, token in enumerate(tokens)}
swaps = swaps_with(places)
off = [
    number[out] - number[s.expected]
    for out, s in zip(whole.answers, swaps, strict=True)
    if out in number
]
figure, (axes,) = figures.figure(7, 3.4)
limit = 12
bars = Counter(max(-limit, min(limit, o)) for o in off)
axes.bar(
    list(bars), [n / len(swaps) for n in bars.values()],
    color=[figures.BLUE if o == 0 else figures.GRAY for o in bars],
)  # fmt: skip
axes.set_xlabel(f"answer less the wanted wrong sum (±{limit}: so much or more)")
axes.set_ylabel("share of swaps")
misses = len(swaps) - off.count(0)
near_miss = sum(0 < abs(o) <= 2 for o in off) / max(1, misses)
pages.show(
    figure,
    "errors",
    f"Of the answers that are not the wanted sum, {near_miss:.0%} miss it by one or two.",
)

# %% [markdown]
# ## Turned off
#
# The features that tell the sum in the last two layers, ablated: is the answer lost, or only no
# longer exact?

# %%
PLACES = 40
lost = []
for place in random.Random(2).sample(range(N * N), PLACES):
    changes = [
        tla.Intervention.ablate(layer, END, feature)
        for layer, feature in (activations[place, 0] > 0).nonzero().tolist()
        if layer >= depth - 2 and CLASS.get((layer, feature)) in OF_SUM
    ]
    lost.append(Swap(prompt(place), changes, tokens[total[place]]))
lost = [swap for swap in lost if swap.changes]
after = concepts.try_swaps(atlas, lost, concept, **concepts.FREE)
near = concepts.share(
    out in number and abs(number[out] - number[s.expected]) <= 10
    for out, s in zip(after.answers, lost, strict=True)
)
pages.table(
    ["ablated", "sums", "still exact", "at most ten off", "still exact with random features"],
    [["features of the sum, last two layers", len(lost), after.rate, near, after.control_rate]],
)

# %%
pages.finish(
    "Addition",
    [pages.Test("sum → another of the same ten", len(whole.swapped), whole.rate,
                whole.control_rate)],
    answered_rightly={name: concepts.share(flags) for name, flags in right.items()},
    on_some_questions={name: rate for name, (_, rate) in few.items()},
    misses_at_most_two_off=near_miss,
    ones_digit_explains_at_most=max(digits),
    classes=dict(Counter(CLASS.values())),
    ablated={"exact": after.rate, "at most ten off": near},
)  # fmt: skip
