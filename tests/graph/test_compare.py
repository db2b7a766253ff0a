from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.compare import compare
from tl_attribution.graph.influence import influence, normalize

seeds = st.integers(0, 10_000)
few_examples = settings(max_examples=30)


def _with_ids(graph, *ids):
    return replace(graph, metadata=replace(graph.metadata, token_ids=ids))


def _same(a, b, positions):
    """Whether two nodes are the same, straight from the definition."""
    return (a.kind, a.layer, a.index) == (b.kind, b.layer, b.index) and (
        positions.get(a.position) == b.position
    )


@few_examples
@given(seeds, seeds, st.sampled_from(["tokens", "position", {0: 1, 2: 2}, {}]))
def test_what_is_shared_is_what_a_search_over_all_pairs_finds(random_graph, seed_a, seed_b, align):
    a, b = random_graph(seed_a, density=0.5), random_graph(seed_b, density=0.5)
    comparison = compare(a, b, align=align)
    positions = comparison.positions
    assert positions == (align if isinstance(align, dict) else {0: 0, 1: 1, 2: 2})
    pairs = {
        (i, j)
        for i, first in enumerate(a.nodes)
        for j, second in enumerate(b.nodes)
        if _same(first, second, positions)
    }
    assert set(map(tuple, comparison.nodes.both.tolist())) == pairs
    assert set(comparison.nodes.only_a.tolist()) == set(range(len(a.nodes))) - {i for i, _ in pairs}
    assert set(comparison.nodes.only_b.tolist()) == set(range(len(b.nodes))) - {j for _, j in pairs}
    edges = {
        (t, s, u, r)
        for t, u in pairs
        for s, r in pairs
        if a.adjacency[t, s] != 0 and b.adjacency[u, r] != 0
    }
    assert set(map(tuple, comparison.edges.both.tolist())) == edges
    edges_a = set(map(tuple, a.adjacency.nonzero().tolist()))
    edges_b = set(map(tuple, b.adjacency.nonzero().tolist()))
    assert set(map(tuple, comparison.edges.only_a.tolist())) == edges_a - {e[:2] for e in edges}
    assert set(map(tuple, comparison.edges.only_b.tolist())) == edges_b - {e[2:] for e in edges}


@few_examples
@given(seeds, seeds)
def test_counts_and_shares_follow(random_graph, seed_a, seed_b):
    a, b = random_graph(seed_a), random_graph(seed_b)
    comparison = compare(a, b)
    for n, kinds in ((len(a.nodes), ()), (int(a.nodes.is_kind("feature").sum()), ("feature",))):
        overlap = comparison.count(*kinds)
        assert overlap.both + overlap.only_a == n
    by_layer = comparison.by_layer()
    features = comparison.count("feature")
    assert sum(c.both for c in by_layer.values()) == features.both
    assert sum(c.only_b for c in by_layer.values()) == features.only_b
    shared = [first for first, _ in comparison.shared() if first.kind == "feature"]
    total = sum(node.influence for node in a.nodes if node.kind == "feature")
    expected = sum(node.influence for node in shared) / max(total, 1e-30)
    assert features.share_a == pytest.approx(expected, abs=1e-5)
    assert comparison.count_edges().both + comparison.count_edges().only_b == b.n_edges
    shares = normalize(b.adjacency)
    flow = shares * (influence(shares, b.target_weights) + b.target_weights)[:, None]
    kept = sum(float(flow[u, r]) for _, _, u, r in comparison.edges.both.tolist())
    assert comparison.count_edges().share_b == pytest.approx(kept / float(flow.sum()), abs=1e-5)


@few_examples
@given(seeds)
def test_a_graph_shares_everything_with_itself(random_graph, seed):
    graph = random_graph(seed)
    comparison = compare(graph, graph)
    assert torch.equal(comparison.nodes.both, torch.arange(len(graph.nodes))[:, None].repeat(1, 2))
    assert comparison.only_a() == comparison.only_b() == []
    overlap = comparison.count()
    assert (overlap.only_a, overlap.only_b) == (0, 0)
    assert overlap.share_a == pytest.approx(1.0)
    assert comparison.count_edges().both == graph.n_edges
    assert comparison.count_edges().share_b == pytest.approx(1.0)


@few_examples
@given(seeds, seeds)
def test_the_order_of_the_two_does_not_matter(random_graph, seed_a, seed_b):
    a, b = random_graph(seed_a), random_graph(seed_b)
    comparison, reversed_comparison = compare(a, b), compare(b, a)
    assert comparison.only_a() == reversed_comparison.only_b()
    assert {(y, x) for x, y in comparison.shared()} == set(reversed_comparison.shared())
    assert comparison.count_edges()[:3] == (
        reversed_comparison.count_edges().both,
        reversed_comparison.count_edges().only_b,
        reversed_comparison.count_edges().only_a,
    )


def test_the_most_influential_come_first(random_graph):
    comparison = compare(random_graph(1), random_graph(2))
    for nodes in (comparison.only_a(), comparison.only_b()):
        strengths = [node.influence for node in nodes]
        assert strengths == sorted(strengths, reverse=True)
    common = [min(x.influence, y.influence) for x, y in comparison.shared()]
    assert common == sorted(common, reverse=True)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1, 2, 3), (1, 2, 3), {0: 0, 1: 1, 2: 2}),
        ((1, 2, 3), (1, 9, 3), {0: 0, 1: 1, 2: 2}),  # another word in the same place
        ((1, 2, 3), (1, 8, 9, 3), {0: 0, 2: 3}),  # two words for one: neither stands for it
        ((1, 2, 3), (9, 1, 2, 3), {0: 1, 1: 2, 2: 3}),
        ((1, 2, 3), (7, 8), {}),
    ],
)
def test_positions_are_aligned_by_their_tokens(random_graph, a, b, expected):
    first = _with_ids(random_graph(0, tokens=("x",) * len(a)), *a)
    second = _with_ids(random_graph(0, tokens=("x",) * len(b)), *b)
    assert compare(first, second).positions == expected


def test_prompts_of_different_length_share_positions_to_the_shorter(random_graph):
    long, short = random_graph(0), random_graph(0, tokens=("The", " cat"))
    assert compare(long, short, align="position").positions == {0: 0, 1: 1}


def test_differences_of_tokens_are_the_same_if_their_labels_are(small_graph):
    def with_target(label):
        index = small_graph.nodes.index.clone()
        index[-1] = 100  # beyond the vocabulary: the first of the targets that are no token
        labels = (*small_graph.nodes.labels[:-1], label)
        return replace(small_graph, nodes=replace(small_graph.nodes, index=index, labels=labels))

    assert compare(with_target("x − y"), with_target("x − y")).count("logit").both == 1
    assert compare(with_target("x − y"), with_target("x − z")).count("logit") == (0, 1, 1, 0.0, 0.0)


def test_the_table(small_graph):
    without = small_graph.subgraph([n for n in small_graph.nodes if n.id != "0_2_1"])
    assert str(compare(small_graph, without)) == (
        "                      both  only a  only b    of a    of b\n"
        "features, layer 0        0       1       0    0.0%    0.0%\n"
        "features, layer 1        1       0       0  100.0%  100.0%\n"
        "features                 1       1       0   57.1%  100.0%\n"
        "errors                   4       0       0  100.0%  100.0%\n"
        "tokens                   2       0       0  100.0%  100.0%\n"
        "positions                2       0       0    0.0%    0.0%\n"
        "logits                   1       0       0    0.0%    0.0%\n"
        "edges                    3       2       0   50.0%  100.0%"
    )


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ("token", r"expected align to be 'tokens', 'position' or a mapping .*, got 'token'"),
        ({0: 0, 1: 0}, "maps two positions to position 0"),
        ({3: 0}, "expected positions 0 to 2 of graph_a in align, got 3"),
        ({0: -1}, "expected positions 0 to 2 of graph_b in align, got -1"),
    ],
)
def test_alignments_that_cannot_be_are_refused(random_graph, align, message):
    unchecked = inspect.unwrap(compare)  # without the tests' type checks, as a user runs it
    with pytest.raises(InputError, match=message):
        unchecked(random_graph(0), random_graph(1), align=align)


@pytest.mark.parametrize("name", ["model", "dictionary"])
def test_graphs_of_different_machines_are_refused(small_graph, name):
    other = replace(small_graph, metadata=replace(small_graph.metadata, **{name: "another"}))
    with pytest.raises(MismatchError, match=f"{name} differ: '.*' and 'another'"):
        compare(small_graph, other)


def test_two_nodes_in_one_place_are_refused(small_graph):
    nodes = small_graph.nodes
    twice = nodes.concatenate([nodes, nodes.select(nodes.is_kind("logit"))])
    n = len(twice)
    values = {k: torch.zeros(n) for k in ("constant", "preactivation", "target_weights")}
    doubled = replace(small_graph, nodes=twice, adjacency=torch.zeros(n, n), **values)
    for pair in ((small_graph, doubled), (doubled, small_graph)):
        with pytest.raises(InputError, match="two nodes of one graph"):
            compare(*pair)
