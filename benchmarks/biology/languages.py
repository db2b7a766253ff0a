# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The opposite of small, in three languages
#
# Atlas knows opposites and synonyms in English, French and Spanish, and how to translate. The
# answer to "the opposite of small is" depends on three things: the operation (opposite or
# synonym), the operand (small) and the language.
#
# **Hypothesis.** Each of the three has features of its own, so that each can be changed while the
# other two stay. **And a question:** large models hold much of such a circuit in common between
# languages. Does one as small as Atlas?

# %%
from __future__ import annotations

import itertools
from typing import NamedTuple

import concepts
import figures
import opposites
import pages
import torch
from concepts import LabeledPrompts, Swap
from opposites import ARTICLE, END, OF, OPERATION, QUESTIONS, TRANSLATION, WORD, prompts, words

import tl_attribution as tla
from tl_attribution.atlas.tables import ANTONYMS, LANGUAGES

atlas = concepts.load()
OPERATIONS = ("opposite", "synonym")
THRESHOLD = 0.1
N = len(ANTONYMS)


def answers(language: str, operation: str) -> list[int]:
    """The right answers about the first words, as tokens."""
    column = "second" if operation == "opposite" else "synonym_of_first"
    return [concepts.token(atlas, word) for word in words(column, language)]


# %% [markdown]
# All questions, and how Atlas answers them:


# %%
def right(language: str, operation: str) -> float:
    """Share of the questions that Atlas answers rightly."""
    token_ids = concepts.answers(atlas, prompts(language, operation))
    return concepts.share(
        a == b for a, b in zip(token_ids, answers(language, operation), strict=True)
    )


pages.table(
    ["language", "operation", "for example", "answered rightly"],
    [[*key, prompts(*key)[0], right(*key)] for key in QUESTIONS],
)

# %% [markdown]
# ## The operation
#
# Features that tell opposite from synonym, at the two words that say it ("the opposite", "a
# synonym"). They are found on every other row of the table and tested on the rows between, where
# they take the values of the other operation: a question for the opposite should then be answered
# with the synonym, and the other way round. Attention is recomputed, because what the last word
# attends to depends on what is asked.

# %%
SEARCHED, TESTED = range(0, N, 2), range(1, N, 2)


def operation_features(language: str) -> concepts.Concept:
    """What tells the operations apart, in one language."""
    rows = [
        (prompts(language, operation)[i], at)
        for at, operation in enumerate(OPERATIONS)
        for i in SEARCHED
    ]
    labeled = opposites.of_class(rows)
    return concepts.find_concept(atlas, [labeled], labeled, (ARTICLE, OPERATION), THRESHOLD)


class Tried(NamedTuple):
    """Swaps of one kind and what came of them."""

    swaps: list[Swap]
    outcome: concepts.Outcome
    size: float


def try_operation(language: str) -> Tried:
    """The operation swapped, both ways."""
    concept = operation_features(language)
    swaps = [
        Swap(prompts(language, OPERATIONS[s])[i], concept.swap(s, t),
             answers(language, OPERATIONS[t])[i])
        for s, t in ((0, 1), (1, 0))
        for i in TESTED
    ]  # fmt: skip
    done = concepts.try_swaps(atlas, swaps, concept, **concepts.FREE)
    return Tried(swaps, done, concept.size())


operation = {language: try_operation(language) for language in LANGUAGES}
header = ["swaps", "features, mean", "wanted answer", "random features"]


def rows_of(tried: dict[str, Tried]) -> list[list[object]]:
    """Rows of a table."""
    return [
        [name, len(t.swaps), f"{t.size:.0f}", t.outcome.rate, t.outcome.control_rate]
        for name, t in tried.items()
    ]


pages.table(["language", *header], rows_of(operation))

# %% [markdown]
# ## The operand
#
# A word's features are found where its *synonym* is asked for, at the word and at the end, and are
# then held at other values where its *opposite* is asked for: those that they have for another
# word in another phrasing of that question. From six words in each language to all others.

# %%
FROM = list(range(0, N, 8))
all_rows = list(range(N))


def operand_features(language: str) -> concepts.Concept:
    """What tells the words apart, in one language."""
    rephrased = [opposites.REPHRASED[language].format(word) for word in words("first", language)]
    return concepts.find_concept(
        atlas,
        [LabeledPrompts(prompts(language, "synonym"), all_rows)],
        LabeledPrompts(rephrased, all_rows),
        (WORD, END),
        THRESHOLD,
    )


operands = {language: operand_features(language) for language in LANGUAGES}


def try_operand(language: str) -> Tried:
    """The word swapped for every other."""
    concept, targets = operands[language], answers(language, "opposite")
    swaps = [
        Swap(prompts(language, "opposite")[i], concept.swap(i, j), targets[j])
        for i in FROM
        for j in all_rows
        if targets[i] != targets[j]
    ]
    return Tried(swaps, concepts.try_swaps(atlas, swaps, concept), concept.size())


operand = {language: try_operand(language) for language in LANGUAGES}
pages.table(["language", *header], rows_of(operand))

# %% [markdown]
# ## The language
#
# Where a translation is asked for ("the French word for small is"), the features that tell the
# language asked for, at the word that names it, take the values of the other language. Found and
# tested on different rows, from each language into the other two.


# %%
def try_translation(language: str) -> Tried:
    """The language asked for swapped, the word to translate being in this language."""
    two = [other for other in LANGUAGES if other != language]
    source_words = words("first", language)
    rows = [
        (TRANSLATION.format(other, source_words[i]), at)
        for at, other in enumerate(two)
        for i in SEARCHED
    ]
    labeled = opposites.of_class(rows)
    concept = concepts.find_concept(atlas, [labeled], labeled, (ARTICLE, OPERATION), THRESHOLD)
    swaps = [
        Swap(TRANSLATION.format(two[s], source_words[i]), concept.swap(s, t),
             concepts.token(atlas, words("first", two[t])[i]))
        for s, t in ((0, 1), (1, 0))
        for i in list(TESTED)[::2]
    ]  # fmt: skip
    done = concepts.try_swaps(atlas, swaps, concept, **concepts.FREE)
    return Tried(swaps, done, concept.size())


translation = {f"from {language}": try_translation(language) for language in LANGUAGES}
pages.table(["translation", *header], rows_of(translation))

# %% [markdown]
# Where an opposite is asked for, no word names the language: the question is in it, and so is the
# operand. Three things are tried: the features around the operand that tell the three languages
# apart take the values of another language; the operand's features take the values of the same
# word in another language; both together. Then the answer should be the opposite in that language.


# %%
labeled_questions = [
    (prompts(x, "opposite")[i], at) for at, x in enumerate(LANGUAGES) for i in SEARCHED
]
rows = opposites.of_class(labeled_questions)
EVERYWHERE = (ARTICLE, OPERATION, OF, WORD, END)
spoken = concepts.find_concept(atlas, [rows], rows, EVERYWHERE, THRESHOLD)
AROUND = spoken.within(positions=(ARTICLE, OPERATION, OF, END))


def word_in(i: int, source: int, target: int) -> list[tla.Intervention]:
    """The features of a word in either language, held at what they are in the second."""
    ours, theirs = operands[LANGUAGES[source]], operands[LANGUAGES[target]]
    places = (ours.members[i] | theirs.members[i]).nonzero().tolist()
    return [
        tla.Intervention(layer, ours.positions[p], f, float(theirs.means[i, p, layer, f]))
        for p, layer, f in places
    ]


def try_question_language(around: bool, word: bool) -> Tried:
    """The language of the question for an opposite, swapped around the operand, in it, or both."""
    swaps = []
    for s, t in itertools.permutations(range(len(LANGUAGES)), 2):
        sources, targets = (answers(LANGUAGES[x], "opposite") for x in (s, t))
        for i in list(TESTED)[::2]:
            changes = AROUND.swap(s, t) if around else []
            interventions = {(c.layer, c.position, c.feature): c for c in changes}
            for c in word_in(i, s, t) if word else []:
                interventions[c.layer, c.position, c.feature] = c
            if sources[i] != targets[i]:
                question = prompts(LANGUAGES[s], "opposite")[i]
                swaps.append(Swap(question, list(interventions.values()), targets[i]))
    done = concepts.try_swaps(atlas, swaps, spoken, **concepts.FREE)
    return Tried(swaps, done, sum(len(swap.changes) for swap in swaps) / len(swaps))


question_language = {
    "around the operand": try_question_language(around=True, word=False),
    "the operand": try_question_language(around=False, word=True),
    "both": try_question_language(around=True, word=True),
}
pages.table(["language of the question, changed", *header], rows_of(question_language))

# %% [markdown]
# ## What the languages share
#
# For each layer, the features active at one position in both of two languages, as a share of those
# active in either (Jaccard), when the opposite of the same word is asked for. The baseline is that
# of different words in two languages: what has to do with the question and not with the word.

# %%
active = {
    language: concepts.activations(atlas, prompts(language, "opposite"), (WORD, END)) > 0
    for language in LANGUAGES
}


def overlap(shift: int, first: str, other: str) -> torch.Tensor:
    """Mean Jaccard index by position and layer, of words ``shift`` rows apart."""
    a, b = active[first], active[other].roll(shift, 0)
    return ((a & b).sum(-1) / (a | b).sum(-1).clamp(min=1)).float().mean(0)


couples = [("English", "French"), ("English", "Spanish"), ("French", "Spanish")]
same = torch.stack([overlap(0, *couple) for couple in couples]).mean(0)
different = torch.stack([overlap(7, *couple) for couple in couples]).mean(0)
layers = list(range(atlas.dictionary.n_layers))
figure, panels = figures.figure(8, 3.4, 2)
titles = ("At the operand", "At the end")
for at, (axes, title) in enumerate(zip(panels, titles, strict=True)):
    axes.plot(layers, same[at], "o-", color=figures.BLUE, label="the same word, two languages")
    axes.plot(layers, different[at], "s--", color=figures.GRAY, label="different words")
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_title(title)
    figures.percent(axes, "features shared" if at == 0 else "")
    axes.set_ylim(0, 0.3)
    axes.set_yticks([0, 0.1, 0.2, 0.3])
panels[0].legend(loc="upper left")
pages.show(figure, "shared", "Features that two languages share, by layer, beside a baseline.")
pages.table(
    ["layer", *(f"{t.lower()}: {kind}" for t in titles for kind in ("same word", "different"))],
    [[f"{x}", *(float(v[at, x]) for at in range(2) for v in (same, different))] for x in layers],
)

# %% [markdown]
# At the end, where the answer is made, two languages share more for the same word than for
# different ones: something of the meaning is common to them. At the operand itself they share
# about as little as chance has it. It fits that the language of a question is changed only with its
# word's features, which say the word and the language at once.
#
# The graphs of "the opposite of small" in two languages, compared: features active at
# corresponding words of both.

# %%
graphs = {
    language: tla.attribute(atlas.model, prompts(language, "opposite")[0], atlas.dictionary)
    for language in LANGUAGES
}


def shared_nodes(first: str, other: str) -> list[object]:
    """How many features of two graphs are the same, at words that correspond."""
    ends = [len(graphs[x].metadata.tokens) for x in (first, other)]
    align = {ends[0] + at: ends[1] + at for at in (ARTICLE, OPERATION, OF, WORD, END)}
    counts = tla.compare(graphs[first], graphs[other], align=align).count("feature")
    return [f"{first}, {other}", counts.both, counts.only_a, counts.only_b]


pages.table(["graphs", "shared", "in the first alone", "in the second alone"],
            [shared_nodes(*couple) for couple in couples])  # fmt: skip

# %%
last = len(graphs["English"].metadata.tokens) - 1
small = operands["English"].members[0]
named = operation_features("English").members.any(0)


def of_small(node: tla.Node, at: int) -> bool:
    """Whether a node is a feature of "small", at the word (0) or the end (1)."""
    is_at_position = node.kind == "feature" and node.position == last - 1 + at
    return is_at_position and bool(small[at, node.layer, node.index])


def of_operation(node: tla.Node) -> bool:
    """Whether a node is a feature of the operation."""
    at = node.position - (last + 1 + ARTICLE)
    return node.kind == "feature" and at in (0, 1) and bool(named[at, node.layer, node.index])


graph = graphs["English"].group({
    "“opposite”": lambda n: n.kind == "token" and n.label.strip() == "opposite",
    "“small”": lambda n: n.kind == "token" and n.label.strip() == "small",
    "operation": of_operation,
    "small, word": lambda n: of_small(n, 0),
    "small, end": lambda n: of_small(n, 1),
    "others, end": lambda n: n.kind == "feature" and n.position == last and not of_small(n, 1),
    "“large”": lambda n: n.kind == "logit" and n.label.strip() == "large",
})  # fmt: skip
boxes = {
    "“opposite”": figures.Box(0, 0, "“opposite”", figures.GRAY),
    "“small”": figures.Box(1.2, 0, "“small”", figures.GRAY),
    "operation": figures.Box(0, 1, "opposite\n(at the words)", figures.PURPLE),
    "small, word": figures.Box(1.2, 1, "small\n(at the word)", figures.BLUE),
    "small, end": figures.Box(1.3, 2.1, "small\n(at the end)", figures.BLUE),
    "others, end": figures.Box(0.1, 2.1, "other features\nat the end", figures.GRAY),
    "“large”": figures.Box(0.7, 3, "“large”", figures.GREEN),
}
figure, (axes,) = figures.figure(7, 5.2)
figures.circuit(axes, graph, boxes)
pages.show(
    figure,
    "graph",
    "The English question's graph. Numbers: the influence on the answer that flows from one "
    "supernode to another. Other tokens, positions and errors are not drawn, nor flows below 1%.",
)

# %%
tried = {
    "operation": operation,
    "operand": operand,
    "language asked for": translation,
    "language of the question": {"both": question_language["both"]},
}


def tested(what: str) -> pages.Test:
    """All languages together."""
    parts = tried[what].values()
    swapped = [flag for t in parts for flag in t.outcome.swapped]
    control = [flag for t in parts for flag in t.outcome.control]
    return pages.Test(
        f"{what} → another", len(swapped), concepts.share(swapped), concepts.share(control)
    )


tests = [tested(what) for what in tried]
figure, (axes,) = figures.figure(7, 3.6)
figures.beside_control(
    axes,
    [what.replace(" of ", " of\n").replace(" asked", "\nasked") for what in tried],
    [t.rate for t in tests],
    [t.control for t in tests],
)
pages.show(figure, "swaps", "What can be changed, in all three languages together.")
pages.finish(
    "Shared across languages",
    tests,
    language_of_the_question={part: t.outcome.rate for part, t in question_language.items()},
    shared_by_layer={t.lower(): [float(v) for v in same[at]] for at, t in enumerate(titles)},
    baseline_by_layer={t.lower(): [float(v) for v in different[at]] for at, t in enumerate(titles)},
)
