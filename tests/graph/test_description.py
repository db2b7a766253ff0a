"""Nodes, paths and graphs in plain text."""

from __future__ import annotations

from dataclasses import replace

import torch

from tl_attribution.graph.data import Certificate
from tl_attribution.graph.description import (
    describe_node,
    describe_path,
    summary,
    summary_rows,
)


def test_a_node_in_words(small_graph):
    nodes, find = small_graph.nodes, small_graph.nodes.find
    assert [describe_node(node, small_graph) for node in nodes] == [
        'layer 0 #2 at " b" (1)',
        'layer 1 #4 at " b" (1): feature 1',
        'error layer 0 at "a" (0)',
        'error layer 0 at " b" (1)',
        'error layer 1 at "a" (0)',
        'error layer 1 at " b" (1)',
        '"a" (0)',
        '" b" (1)',
        "position 0",
        "position 1",
        '" c"',
    ]
    answer = nodes[find("logit", 2, 1, 5)]
    assert describe_node(answer._replace(position=0), small_graph) == '" c" after (0)'
    difference = answer._replace(index=100, label='" c" − " d"')
    assert describe_node(difference, small_graph) == '" c" − " d"'


def test_a_path_in_words_shows_signs(small_graph):
    first, second = small_graph.paths(n=2)
    assert describe_path(first, small_graph) == (
        '" b" (1) → layer 0 #2 at " b" (1) → layer 1 #4 at " b" (1): feature 1 → " c"'
    )
    assert describe_path(second, small_graph) == '"a" (0) ⊣ " c"'


def test_the_summary_of_the_small_graph(small_graph):
    assert summary(small_graph) == (
        "prompt       a b\n"
        'tokens       "a" " b"\n'
        'answers      " c" 80.0%\n'
        "model        tiny\n"
        "dictionary   tiny-clt\n"
        "graph        2 features, 4 errors, 2 tokens, 2 positions, 1 logit, 5 edges\n"
        "replacement  0.800\n"
        "completeness 0.941\n"
        "residual     0.0e+00\n"
        "strongest paths\n"
        '  48.00%  " b" (1) → layer 0 #2 at " b" (1) → layer 1 #4 at " b" (1): feature 1 → " c"\n'
        '  16.00%  "a" (0) ⊣ " c"'
    )


def test_the_summary_says_when_the_graph_is_pruned_or_partial(small_graph):
    pruned = dict(summary_rows(small_graph.prune(0.6, 0.9)))
    assert pruned["pruned to"] == "0.6 of influence, 0.9 of edges; the scores are of what is left"
    partial = replace(small_graph, certificate=Certificate(20, 2, 0.125, (0.7, 0.8), (0.9, 0.95)))
    assert "partial" not in dict(summary_rows(small_graph))
    assert dict(summary_rows(partial))["partial"] == (
        "2 of 20 active features expanded; 12.5% of the influence goes to the others; the whole "
        "graph has replacement 0.700 to 0.800, completeness 0.900 to 0.950"
    )


def test_the_summary_of_a_hostile_prompt_is_plain(random_graph):
    graph = random_graph(0, tokens=("\x1b[2J", "\r\n", " cat"), answers=("\x07",))
    assert "\x1b" not in summary(graph)
    assert "\r" not in summary(graph)
    assert "\x07" not in summary(graph)


def test_a_graph_no_input_of_which_reaches_a_target_says_so(small_graph):
    alone = replace(small_graph, adjacency=torch.zeros_like(small_graph.adjacency))
    assert summary(alone).endswith("  none: no input reaches a target")
