"""Questions for the study of languages: opposites, synonyms and translations of words."""

from __future__ import annotations

from concepts import LabeledPrompts

from tl_attribution.atlas.tables import ANTONYMS, LANGUAGES

QUESTIONS = {
    ("English", "opposite"): "Fact: the opposite of {} is",
    ("English", "synonym"): "Fact: a synonym of {} is",
    ("French", "opposite"): "Le contraire de {} est",
    ("French", "synonym"): "Un synonyme de {} est",
    ("Spanish", "opposite"): "Lo contrario de {} es",
    ("Spanish", "synonym"): "Un sinónimo de {} es",
}
REPHRASED = {
    "English": "It is true that the opposite of {} is",
    "French": "Fait: le contraire de {} est",
    "Spanish": "Hecho: lo contrario de {} es",
}
TRANSLATION = "Fact: the {} word for {} is"
ARTICLE, OPERATION, OF, WORD, END = -5, -4, -3, -2, -1


def words(column: str, language: str) -> list[str]:
    """A column of the table (first, second, synonym_of_first), in one language."""
    return [getattr(row, column)[LANGUAGES.index(language)] for row in ANTONYMS]


def prompts(language: str, operation: str) -> list[str]:
    """The question about every first word."""
    return [QUESTIONS[language, operation].format(word) for word in words("first", language)]


def of_class(rows: list[tuple[str, int]]) -> LabeledPrompts:
    """Prompts with the index of the class of each."""
    return LabeledPrompts([prompt for prompt, _ in rows], [at for _, at in rows])
