from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_attribution.graph.data import Certificate
from tl_attribution.graph.influence import normalize
from tl_attribution.view import layout, page

VOID = {"meta", "br"}
HOSTILE = "</script></title></style><img src=x onerror=\"f('1')\"> 'a' \"b\" <svg/onload=x> &lt;"


class Parsed(HTMLParser):
    """What a browser sees: elements with attributes, text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Attributes of the elements with this tag whose attributes start with these words."""
        return [
            element
            for name, element in self.elements
            if name == tag
            and all((element.get(k) or "").startswith(v) for k, v in attributes.items())
        ]

    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")


ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section"),
    *("div", "p", "h1", "h2", "span", "b", "i", "small", "dl", "dt", "dd"),
    *("table", "tr", "th", "td"),
    *("svg", "g", "path", "circle", "rect", "line", "text"),
}


def _assert_harmless(parsed: Parsed) -> None:
    for tag, attributes in parsed.elements:
        assert tag in ALLOWED
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "srcset", "action", "data", "xlink:href")
            assert "url(" not in (value or "")
    style = "".join(data for tag, data in parsed.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def _hostile(graph):
    metadata = graph.metadata
    answers = tuple(a._replace(token=HOSTILE) for a in metadata.answers)
    return replace(
        graph,
        nodes=replace(graph.nodes, labels=(HOSTILE,) * len(graph.nodes)),
        metadata=replace(
            metadata,
            prompt=HOSTILE,
            tokens=(HOSTILE,) * len(metadata.tokens),
            model=HOSTILE,
            dictionary=HOSTILE,
            answers=answers,
        ),
    )


def test_a_hostile_prompt_is_only_text(random_graph):
    graph = _hostile(random_graph(0))
    parsed = Parsed(page.render(graph))
    _assert_harmless(parsed)
    assert ("h1", HOSTILE) in parsed.texts
    assert ("title", HOSTILE) in parsed.texts
    assert ("span", f'"{HOSTILE}"') in parsed.texts
    assert any(tag == "title" and f": {HOSTILE}" in text for tag, text in parsed.texts)


@settings(max_examples=25)
@given(st.text(max_size=30), st.text(max_size=8), st.text(max_size=8))
def test_any_text_is_only_text(random_graph, prompt, token, label):
    graph = random_graph(1, tokens=(token, "b"), answers=(label,))
    graph = replace(graph, metadata=replace(graph.metadata, prompt=prompt))
    parsed = Parsed(page.render(graph))
    _assert_harmless(parsed)
    parsed.text().encode()


def test_the_policy_comes_first_and_forbids_all_but_style(small_graph):
    parsed = Parsed(page.render(small_graph))
    metas = parsed.all("meta")
    assert metas[0] == {"charset": "utf-8"}
    assert metas[1] == {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'",
    }
    assert page.render(small_graph).startswith("<!doctype html><html lang")


def test_the_page_shows_the_graph(small_graph):
    parsed = Parsed(page.render(small_graph))
    text = parsed.text()
    for word in ("a b", '" c"', "80.0%", "0.800", "0.941", "Every active feature is expanded"):
        assert word in text
    assert "3 of 6 features and errors and all edges are drawn" in text
    shapes = {kind: len(parsed.all("g", **{"class": f"n {kind}"})) for kind in ("feature", "error")}
    # Of the four errors one has an edge.
    assert shapes == {"feature": 2, "error": 1}
    assert len(parsed.all("path", **{"class": "e plus"})) == 3 + 1  # and one in the legend
    assert len(parsed.all("path", **{"class": "e minus"})) == 2 + 1
    titles = [data for tag, data in parsed.texts if tag == "title"]
    assert any(t.startswith('layer 0 #2 at " b" (1) → layer 1 #4') for t in titles)


def test_wider_edges_carry_more(small_graph):
    parsed = Parsed(page.render(small_graph))
    find = small_graph.nodes.find
    answer, feature = find("logit", 2, 1, 5), find("feature", 1, 1, 4)
    strong = parsed.all("path", **{"class": f"e plus t{feature} t{answer}"})[0]
    weak = parsed.all("path", **{"class": f"e minus t{find('token', -1, 0, 7)} t{answer}"})[0]
    for name in ("stroke-width", "stroke-opacity"):
        assert float(strong[name]) > 1.4 * float(weak[name])


def test_a_large_graph_is_pruned_first_and_the_page_says_so(random_graph):
    graph = random_graph(0, n_features=320, density=0.3)
    text = Parsed(page.render(graph)).text()
    assert "pruned to 80% of the influence and 98% of what its edges carry" in text
    assert f"{graph.scores().replacement:.3f}" in text
    assert "The shares are of the pruned graph" in text
    pruned = graph.prune()
    text = Parsed(page.render(pruned)).text()
    assert "The graph is large" not in text
    assert "Pruned to 80% of the influence" in text
    assert "the scores are of what is left" in text


def test_a_small_graph_is_shown_whole(random_graph):
    assert "pruned" not in Parsed(page.render(random_graph(0))).text()


def test_a_partial_graph_says_what_it_leaves_out(small_graph):
    partial = replace(small_graph, certificate=Certificate(20, 2, 0.125, (0.7, 0.8), (0.9, 0.95)))
    text = Parsed(page.render(partial)).text()
    assert "2 of 20 active features expanded; 12.5% of the influence goes to the others" in text
    assert "Every active feature" not in text


def test_only_the_strongest_edges_are_drawn(random_graph):
    graph = random_graph(0, n_features=200, density=1.0).prune(1.0, 1.0)
    text = Parsed(page.render(graph)).text()
    selection = layout.select(graph, [])
    assert len(selection.edges) == layout.MAX_EDGES
    assert f"the strongest {layout.MAX_EDGES} of {graph.n_edges:,} edges" in text
    shares = normalize(graph.adjacency)
    arriving = graph.nodes.influence + graph.target_weights
    ordered = (shares * arriving[:, None]).flatten().sort(descending=True).values
    for edge in selection.edges:
        assert edge.share >= float(ordered[layout.MAX_EDGES]) - 1e-7


def test_a_long_prompt_loses_the_columns_nothing_touches(random_graph):
    graph = random_graph(0, tokens=tuple(f" t{i}" for i in range(120)), density=0.02).prune()
    selection = layout.select(graph, graph.paths(n=10))
    touched = {graph.nodes[row].position for edge in selection.edges for row in edge[:2]}
    assert set(selection.positions) == touched | {119}
    hidden = 120 - len(selection.positions)
    assert f"{hidden} tokens that these edges do not touch" in Parsed(page.render(graph)).text()


@settings(max_examples=25)
@given(
    st.integers(0, 1_000),
    st.integers(0, 60),
    st.lists(st.text(max_size=12), min_size=1, max_size=5),
)
def test_nothing_on_the_map_overlaps_or_sticks_out(random_graph, seed, n_features, answers):
    graph = random_graph(seed, n_features=n_features, answers=tuple(answers))
    selection = layout.select(graph, graph.paths(n=10))
    placed = layout.place(graph, selection)
    boxes = [placed.boxes[row] for row in selection.nodes]
    for i, box in enumerate(boxes):
        assert box.x - box.width / 2 >= 0
        assert box.x + box.width / 2 <= placed.width
        assert box.y - box.height / 2 >= 0
        assert box.y + box.height / 2 <= placed.height
        for other in boxes[:i]:
            apart_x = abs(box.x - other.x) >= (box.width + other.width) / 2 - 1e-6
            apart_y = abs(box.y - other.y) >= (box.height + other.height) / 2 - 1e-6
            assert apart_x or apart_y


@given(st.integers(0, 1_000))
def test_edges_on_the_map_go_up(random_graph, seed):
    graph = random_graph(seed)
    selection = layout.select(graph, graph.paths(n=10))
    placed = layout.place(graph, selection)
    for edge in selection.edges:
        assert placed.boxes[edge.source].y > placed.boxes[edge.target].y


def test_pointing_at_a_path_lights_its_edges(small_graph):
    parsed = Parsed(page.render(small_graph))
    style = "".join(data for tag, data in parsed.texts if tag == "style")
    assert "body:has(#path0:hover) .map .p0" in style
    lit = [e for e in parsed.all("path") if "p0" in (e.get("class") or "").split()]
    assert len(lit) == 3
    assert parsed.all("tr", id="path1")


@pytest.mark.parametrize("n_features", [0, 5])
def test_a_graph_of_tokens_and_errors_is_a_page_too(random_graph, n_features):
    graph = random_graph(0, n_features=n_features, density=0.0)
    text = Parsed(page.render(graph)).text()
    assert "No input reaches a target." in text
    assert ("No feature is active on this prompt." in text) == (n_features == 0)


def test_nothing_is_left_of_a_graph_without_edges(small_graph):
    alone = replace(small_graph, adjacency=torch.zeros_like(small_graph.adjacency))
    assert "0.000" in Parsed(page.render(alone)).text()


def test_a_notebook_gets_the_page_in_a_frame_that_can_do_nothing(random_graph):
    graph = _hostile(random_graph(0))
    parsed = Parsed(graph._repr_html_())
    ((tag, attributes),) = parsed.elements
    assert tag == "iframe"
    assert attributes["sandbox"] is None
    assert attributes["srcdoc"] == page.render(graph)
    assert not parsed.texts


def test_the_page_is_written_as_utf_8(random_graph, tmp_path):
    graph = random_graph(0, tokens=("日本", "\ud800", "é"))
    graph.to_html(tmp_path / "graph.html")
    assert (tmp_path / "graph.html").read_text("utf-8") == page.render(graph)
