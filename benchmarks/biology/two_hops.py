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
# "The capital of the state containing Dallas" names neither Texas nor Austin. A model that has learnt
# its facts one by one must first find the state and then the capital of it. Atlas was never shown
# this question.
#
# **Hypothesis.** Features for the state stand between the city and the capital. If so, giving them
# the values of another state makes Atlas answer with the other state's capital.

# %%
from __future__ import annotations

import concepts
import pages
from concepts import Asked, Swap

from tl_attribution.atlas.tables import STATES

atlas = concepts.load()
PROMPT = "Fact: the capital of the state containing {} is"
STATE = "Fact: the state containing {} is"
CITY, END = -2, -1

capitals = [concepts.token(atlas, s.capital) for s in STATES]
asked_cities = ["Dallas" if s.name == "Texas" else s.cities[0] for s in STATES]


# %%
def other_cities(question: str) -> Asked:
    """The question about every city but those that the swaps are made on."""
    rows = [
        (question.format(city), i)
        for i, s in enumerate(STATES)
        for city in s.cities
        if city not in asked_cities
    ]
    return Asked([prompt for prompt, _ in rows], [i for _, i in rows])


state = concepts.find_concept(
    atlas, [other_cities(STATE)], other_cities(PROMPT), (CITY, END), threshold=0.1
)
swaps = [
    Swap(PROMPT.format(asked_cities[i]), state.swap(i, j), capitals[j])
    for i in range(len(STATES))
    for j in range(len(STATES))
    if i != j
]
outcome = concepts.try_swaps(atlas, swaps, state)
pages.table(
    ["ordered pairs of states", "answered with the other capital", "random features"],
    [[len(swaps), outcome.rate, outcome.control_rate]],
)

# %%
pages.finish(
    "Two hops",
    [pages.Test("state → another state", len(swaps), outcome.rate, outcome.control_rate)],
)
