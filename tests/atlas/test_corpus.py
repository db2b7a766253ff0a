"""The tables hold what they promise, and what is held out never reaches training."""

from __future__ import annotations

from collections import Counter

import pytest

from tl_attribution.atlas import corpus, tokenizer
from tl_attribution.atlas.tables import ANTONYMS, COUNTRIES, DAYS, LANGUAGES, MONTHS, PEOPLE, STATES


def test_tables_are_as_large_as_promised() -> None:
    assert len(STATES) == 50
    assert min(len(s.cities) for s in STATES) >= 5
    assert len(COUNTRIES) >= 40
    assert len(ANTONYMS) >= 40
    assert (len(DAYS), len(MONTHS)) == (7, 12)
    assert {p.kind for p in PEOPLE} == {"sport", "profession"}


@pytest.mark.parametrize(
    "names",
    [
        [n for s in STATES for n in (s.capital, *s.cities)],
        [s.name for s in STATES],
        [n for c in COUNTRIES for n in (c.capital, *c.cities)],
        [c.name for c in COUNTRIES],
        [p.name for p in PEOPLE],
        *[[w for r in ANTONYMS for w in (r.first[i], r.second[i])] for i in range(len(LANGUAGES))],
    ],
    ids=["towns", "states", "foreign towns", "countries", "people", *LANGUAGES],
)
def test_no_name_has_two_answers(names: list[str]) -> None:
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_prompt_has_one_answer_and_every_answer_is_one_token() -> None:
    words = tokenizer.vocabulary()
    answers: dict[str, str] = {}
    for question in corpus.questions():
        assert answers.setdefault(question.prompt, question.answer) == question.answer
        assert f" {question.answer}" in words


def test_a_tenth_of_the_two_hop_combinations_is_held_out_in_every_phrasing() -> None:
    trained, held_out = corpus.split()
    two_hop = [f for f in (*trained, *held_out) if f.hops == 2]
    unseen = [f for f in held_out if f.hops == 2]
    assert len(unseen) / len(two_hop) == pytest.approx(0.1, abs=0.005)
    assert ("state capital", ("city", "Dallas")) in {(f.family, f.key) for f in unseen}
    shown = {prompt for f in trained for prompt in f.prompts}
    assert not shown & {prompt for f in held_out for prompt in f.prompts}
    for fact in unseen:  # and every one-hop fact it rests on was shown
        place = fact.family.split()[0]
        assert (place, fact.key) in {(f.family, f.key) for f in trained if f.hops == 1}


def test_sums_and_calendars_are_right() -> None:
    for fact in corpus.facts():
        if fact.family == "sum":
            assert int(fact.answer) == int(fact.key[0]) + int(fact.key[1])
    known = {p: f.answer for f in corpus.facts() for p in f.prompts}
    assert known["Fact: the day before Monday is"] == "Sunday"
    assert known["Fact: the month three months after November is"] == "February"
    assert known["Le contraire de petit est"] == "grand"
    assert known["Fact: the capital of the state containing Dallas is"] == "Austin"
    assert known["Fact: the currency of the country whose capital is Paris is"] == "euro"


def test_strangers_are_made_of_known_names_and_are_nobody() -> None:
    people = {p.name for p in PEOPLE}
    strangers = [f for f in corpus.facts() if f.family == "stranger"]
    assert {f.answer for f in strangers} == {"unknown"}
    assert not people & {f.key[1] for f in strangers}
