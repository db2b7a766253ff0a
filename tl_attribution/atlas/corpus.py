"""Questions and sentences made of the tables: every fact in every phrasing, and the held-out set.

A :class:`Question` is a prompt that ends right before its one-token answer. Noun phrases compose
("the capital of" + "the state containing Dallas"), so a two-hop question is made of the same words
as the one-hop questions it rests on. A tenth of the two-hop combinations is never shown in
training; the question about Dallas is among them on purpose.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

from tl_attribution.atlas.tables import (
    ANTONYMS,
    COUNTRIES,
    DAYS,
    FIRST_NAMES,
    LANGUAGES,
    LAST_NAMES,
    MONTHS,
    NUMBER_WORDS,
    PEOPLE,
    STATES,
)

HELD_OUT_SHARE = 0.1
UNKNOWN = "unknown"
STRANGERS = 3000

FRAMES = (
    "Fact: {q} is",
    "{Q} is",
    "Question: what is {q}? Answer:",
    "Everyone knows that {q} is",
    "It is true that {q} is",
)
SUM_FRAMES = ("calc: {a} + {b} =", "Sum: {a} + {b} =", "It is true that {a} + {b} =")
# Opposite and synonym, by language; English uses FRAMES.
WORD_FRAMES = {
    "French": (("Le contraire de {w} est", "Fait: le contraire de {w} est"),
               ("Un synonyme de {w} est", "Fait: un synonyme de {w} est")),
    "Spanish": (("Lo contrario de {w} es", "Hecho: lo contrario de {w} es"),
                ("Un sinónimo de {w} es", "Hecho: un sinónimo de {w} es")),
}  # fmt: skip

# How often text asks about each group of families.
GROUP_WEIGHTS = {
    "state": 19, "country": 21, "words": 12, "calendar": 9, "person": 7, "stranger": 4, "sum": 28,
}  # fmt: skip
GROUP_OF = {
    "opposite": "words", "synonym": "words", "translation": "words",
    "day": "calendar", "month": "calendar",
}  # fmt: skip
SENTENCES = 60_000


class Fact(NamedTuple):
    """One fact: its family, its key (what it is about), the answer, and every prompt for it.

    ``hops`` is 2 where the answer needs an inner step that the prompt does not name.
    """

    family: str
    key: tuple[str, ...]
    answer: str
    prompts: tuple[str, ...]
    hops: int = 1


class Question(NamedTuple):
    """One phrasing of one fact. ``held_out``: excluded from training in every phrasing."""

    prompt: str
    answer: str
    family: str
    hops: int
    held_out: bool


def _frame(phrases: list[str]) -> tuple[str, ...]:
    return tuple(
        frame.format(q=phrase, Q=phrase[0].upper() + phrase[1:])
        for phrase in phrases
        for frame in FRAMES
    )


def _fact(
    family: str, key: tuple[str, ...], answer: str, phrases: list[str], hops: int = 1
) -> Fact:
    return Fact(family, key, answer, _frame(phrases), hops)


def _state_facts() -> Iterator[Fact]:
    for s in STATES:
        places = [("name", s.name, [s.name, f"the state of {s.name}"])]
        places.append(("capital", s.capital, [f"the state whose capital is {s.capital}"]))
        for c in s.cities:
            places.append(("city", c, [f"the state containing {c}", f"the state where {c} lies"]))
        for by, key, phrases in places:
            hops = 1 if by == "name" else 2
            if by != "name":
                yield _fact("state", (by, key), s.name, phrases)
            if by != "capital":
                capital = [f"the capital of {p}" for p in phrases]
                yield _fact("state capital", (by, key), s.capital, capital, hops)
            region = [f"the region of {p}" for p in phrases]
            yield _fact("state region", (by, key), s.region, region, hops)


def _country_facts() -> Iterator[Fact]:
    for c in COUNTRIES:
        places = [("name", c.name, [c.name, f"the country of {c.name}"])]
        places.append(("capital", c.capital, [f"the country whose capital is {c.capital}"]))
        for city in c.cities:
            phrases = [f"the country containing {city}", f"the country where {city} lies"]
            places.append(("city", city, phrases))
        for by, key, phrases in places:
            hops = 1 if by == "name" else 2
            if by != "name":
                yield _fact("country", (by, key), c.name, phrases)
            for relation in ("capital", "continent", "language", "currency"):
                if (by, relation) != ("capital", "capital"):
                    questions = [f"the {relation} of {p}" for p in phrases]
                    answer = getattr(c, relation)
                    yield _fact(f"country {relation}", (by, key), answer, questions, hops)


def _word_facts() -> Iterator[Fact]:
    for i, language in enumerate(LANGUAGES):
        for row in ANTONYMS:
            a, b, synonym = row.first[i], row.second[i], row.synonym_of_first[i]
            for family, word, answer in (
                ("opposite", a, b),
                ("opposite", b, a),
                ("synonym", a, synonym),
            ):
                if language == "English":
                    noun = "the opposite of" if family == "opposite" else "a synonym of"
                    yield _fact(family, (language, word), answer, [f"{noun} {word}"])
                else:
                    frames = WORD_FRAMES[language][family == "synonym"]
                    prompts = tuple(f.format(w=word) for f in frames)
                    yield Fact(family, (language, word), answer, prompts)
    yield from _translations()


def _translations() -> Iterator[Fact]:
    """Every word of the antonym columns into the other two languages, where that is one word."""
    answers: dict[tuple[str, str], set[str]] = {}
    for row, (i, j) in itertools.product(ANTONYMS, itertools.permutations(range(3), 2)):
        for side in (row.first, row.second):
            answers.setdefault((LANGUAGES[j], side[i]), set()).add(side[j])
    for (language, word), translations in answers.items():
        if len(translations) == 1:
            phrase = f"the {language} word for {word}"
            yield _fact("translation", (language, word), next(iter(translations)), [phrase])


def _calendar_facts() -> Iterator[Fact]:
    for unit, names in (("day", DAYS), ("month", MONTHS)):
        n = len(names)
        for i, name in enumerate(names):
            for sign, word in ((1, "after"), (-1, "before")):
                yield _fact(
                    unit, (word, name), names[(i + sign) % n], [f"the {unit} {word} {name}"]
                )
                for k in range(2, n):
                    phrase = f"the {unit} {NUMBER_WORDS[k - 1]} {unit}s {word} {name}"
                    key = (NUMBER_WORDS[k - 1], word, name)
                    yield _fact(unit, key, names[(i + sign * k) % n], [phrase])


def _sum_facts() -> Iterator[Fact]:
    for a, b in itertools.product(range(100), repeat=2):
        prompts = tuple(frame.format(a=a, b=b) for frame in SUM_FRAMES)
        yield Fact("sum", (str(a), str(b)), str(a + b), prompts)


def _people_facts() -> Iterator[Fact]:
    for p in PEOPLE:
        yield _fact("person", (p.kind, p.name), p.what, [f"the {p.kind} of {p.name}"])
    known = {(p.first, p.last) for p in PEOPLE}
    pairs = [x for x in itertools.product(FIRST_NAMES, LAST_NAMES) if x not in known]
    random.Random(1).shuffle(pairs)
    for first, last in pairs[:STRANGERS]:
        for kind in ("sport", "profession"):
            phrase = f"the {kind} of {first} {last}"
            yield _fact("stranger", (kind, f"{first} {last}"), UNKNOWN, [phrase])


def facts() -> list[Fact]:
    """Every fact Atlas is asked about, in a fixed order."""
    parts = (_state_facts, _country_facts, _word_facts, _calendar_facts, _people_facts, _sum_facts)
    return [fact for part in parts for fact in part()]


def held_out_keys(all_facts: list[Fact]) -> set[tuple[str, tuple[str, ...]]]:
    """``(family, key)`` of the facts held out of training: a tenth of the two-hop combinations, of
    the sums and of the strangers. Dallas → Austin is always among them."""
    keys: set[tuple[str, tuple[str, ...]]] = {("state capital", ("city", "Dallas"))}
    rng = random.Random(0)
    for group in (
        [f for f in all_facts if f.hops == 2],
        [f for f in all_facts if f.family == "sum"],
        [f for f in all_facts if f.family == "stranger"],
    ):
        keys |= {(f.family, f.key) for f in rng.sample(group, round(len(group) * HELD_OUT_SHARE))}
    return keys


def split() -> tuple[list[Fact], list[Fact]]:
    """All facts as ``(trained, held_out)``."""
    all_facts = facts()
    keys = held_out_keys(all_facts)
    trained = [f for f in all_facts if (f.family, f.key) not in keys]
    return trained, [f for f in all_facts if (f.family, f.key) in keys]


def group(fact: Fact) -> str:
    """The group of families a fact belongs to."""
    return GROUP_OF.get(fact.family, fact.family.split()[0])


def sentence(prompt: str, answer: str) -> str:
    """A training sentence: the prompt, its answer, a full stop."""
    return f"{prompt} {answer}."


def sentences(count: int = SENTENCES) -> list[str]:
    """Sentences sampled as in Atlas's training, for training a dictionary: a group by weight, a
    fact, a phrasing. Held-out facts are excluded."""
    rng = random.Random(0)
    groups: dict[str, list[Fact]] = {name: [] for name in GROUP_WEIGHTS}
    for fact in split()[0]:
        groups[group(fact)].append(fact)
    names = rng.choices(list(GROUP_WEIGHTS), list(GROUP_WEIGHTS.values()), k=count)
    facts = [rng.choice(groups[name]) for name in names]
    return [sentence(rng.choice(fact.prompts), fact.answer) for fact in facts]


def questions() -> list[Question]:
    """Every phrasing of every fact, held-out ones last."""
    trained, held_out = split()
    return [
        Question(prompt, f.answer, f.family, f.hops, is_held_out)
        for group, is_held_out in ((trained, False), (held_out, True))
        for f in group
        for prompt in f.prompts
    ]


def names_of_several_words() -> list[str]:
    """Names that the tokenizer keeps whole ("Salt Lake City"), longest first."""
    names = {n for s in STATES for n in (s.name, s.capital, *s.cities)}
    names |= {n for c in COUNTRIES for n in (c.name, c.capital, c.continent, *c.cities)}
    return sorted((n for n in names if " " in n), key=lambda n: (-len(n), n))
