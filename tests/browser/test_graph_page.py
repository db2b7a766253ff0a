"""The page of a graph as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.cli.graphs import small_graph

pytestmark = pytest.mark.browser
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options)
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome, tmp_path: Path) -> webdriver.Chrome:
    path = tmp_path / "graph.html"
    small_graph().to_html(path)
    chromium.get(path.as_uri())
    return chromium


def test_the_browser_logs_nothing(page: webdriver.Chrome) -> None:
    assert page.get_log("browser") == []


def test_it_loads_no_other_file(page: webdriver.Chrome) -> None:
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded == []


def test_answers_and_prompts_are_shown_as_text(page: webdriver.Chrome) -> None:
    seen = page.find_element("tag name", "body").text
    assert '" Austin"' in seen
    assert r"[red]Dallas[/red]\x1b[31m:smile:" in seen


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(page: webdriver.Chrome, width: int) -> None:
    page.set_window_size(width, 900)
    content, window = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert content <= window
