"""The tables of true facts that Atlas is trained on: ground truth for anything measured on it."""

from tl_attribution.atlas.tables.calendar import DAYS, MONTHS, NUMBER_WORDS
from tl_attribution.atlas.tables.countries import COUNTRIES, Country
from tl_attribution.atlas.tables.people import FIRST_NAMES, LAST_NAMES, PEOPLE, Person
from tl_attribution.atlas.tables.states import STATES, State
from tl_attribution.atlas.tables.words import ANTONYMS, LANGUAGES, Antonym

__all__ = [
    "ANTONYMS",
    "COUNTRIES",
    "DAYS",
    "FIRST_NAMES",
    "LANGUAGES",
    "LAST_NAMES",
    "MONTHS",
    "NUMBER_WORDS",
    "PEOPLE",
    "STATES",
    "Antonym",
    "Country",
    "Person",
    "State",
]
