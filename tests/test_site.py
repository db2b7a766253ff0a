"""The documentation as a site: complete, true to the code, and built without any network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tl_attribution as tla
from tl_attribution import errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NUMBER = re.compile(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?")


def script(name: str, *needs: str) -> ModuleType:
    """A script of docs/site, skipped where what it needs is not installed."""
    for module in needs:
        pytest.importorskip(module, reason="the docs extra is not installed")
    sys.path.insert(0, str(DOCS / "site"))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


def test_the_reference_has_every_public_name_once() -> None:
    named = re.findall(r"^::: tla\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(tla.__all__)


def test_troubleshooting_has_every_error_class_with_a_cure() -> None:
    family = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TlAttributionError)
    }
    parts = re.split(r"^## ", (DOCS / "troubleshooting.md").read_text(), flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0]: part for part in parts}
    assert family <= sections.keys()
    for name in family - {"TlAttributionError"}:
        builtin = getattr(tla, name).__bases__[1].__name__
        assert f"(`{builtin}`)" in sections[name], name
        assert "| cause | cure |" in sections[name], name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "docs" / "site" / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"[\w/]+\.md", navigation))


def test_the_architecture_has_every_package_and_its_sentence() -> None:
    architecture = script("architecture", "grimp")
    core = {path.parent.name for path in ROOT.glob("tl_attribution/*/__init__.py")}
    plugins = {f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/__init__.py")}
    units = dict(architecture.imports().nodes("unit"))
    assert core | plugins <= units.keys()
    assert all(unit.about for unit in units.values()), units
    assert all(f">{name}</text>" in architecture.picture() for name in units)


def test_the_architecture_draws_imports_downwards() -> None:
    architecture = script("architecture", "grimp")
    graph, lines = architecture.imports(), architecture.levels(architecture.imports())
    line = {name: number for number, names in enumerate(lines) for name in names}
    assert graph.number_of_edges() > len(line)
    assert all(line[importer] > line[imported] for importer, imported in graph.edges)


def test_the_picture_is_of_the_graph_that_is_traced_today() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import picture
    finally:
        sys.path.pop(0)
    words = re.compile(r"<text[^>]*>([^<]*)</text>")  # tokens, layers, features, answers
    fresh = words.findall(picture.draw(picture.graph()))
    assert sorted(fresh) == sorted(words.findall((DOCS / "dallas.svg").read_text()))


def test_docstrings_are_shown_as_markdown() -> None:
    docstrings = script("docstrings", "griffe")
    text = "See :func:`tl_attribution.attribute` and :class:`~a.b.C`.\n\n>>> f(1)\n2\n\nMore."
    assert docstrings.as_markdown(text) == (
        "See `tla.attribute` and `C`.\n\n```pycon\n>>> f(1)\n2\n```\n\nMore."
    )


def test_the_tutorial_is_what_its_script_says() -> None:
    notebook = script("notebook", "jupytext", "nbclient")
    page = (DOCS / "tutorial.md").read_text()
    for cell in notebook.read().cells:
        assert cell.source in page


@pytest.mark.slow
def test_the_tutorial_prints_what_is_shown() -> None:
    notebook = script("notebook", "jupytext", "nbclient")
    run = notebook.page(notebook.execute())
    shown = (DOCS / "tutorial.md").read_text()
    assert NUMBER.sub("#", run) == NUMBER.sub("#", shown)


@pytest.mark.slow
def test_the_site_builds_and_its_pages_fetch_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    command += ["--config-file", "docs/site/mkdocs.yml"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text() for path in tmp_path.rglob("*.html")}
    for name, page in pages.items():
        fetched = re.findall(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="([^"]*)"', page)
        assert fetched, name
        assert not [address for address in fetched if "//" in address], name
    assert not re.search(r":(?:func|class|meth):|&gt;&gt;&gt;", pages["reference.html"])
