"""The Python in README and docs/ runs, and their links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tl_attribution import extend
from tl_attribution.registry import Registry

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(py.*)$", re.MULTILINE)
NOTEBOOK = ROOT / "docs" / "tutorial.md"
"""Its blocks are one program, which tests/test_site.py runs as a notebook."""
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a document registers is removed after it."""
    registries = [
        value for name in extend.__all__ if isinstance(value := getattr(extend, name), Registry)
    ]
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        for key in set(registry) - set(entries):
            registry.unregister(key)


def snippets() -> list[tuple[str, str]]:
    pages = [path for path in DOCUMENTS if path != NOTEBOOK]
    return [(name(path), code) for path in pages for code in BLOCK.findall(path.read_text())]


@pytest.mark.hosts
@pytest.mark.parametrize(("document", "code"), snippets(), ids=[d for d, _ in snippets()])
def test_the_code_in_documents_runs(
    document: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "import sae_lens" in code:
        pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {})  # our own text, to prove that it runs
    written = re.findall(r'"(\w+\.(?:html|json|safetensors))"', code)
    assert all((tmp_path / file).exists() for file in written)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_that_does_not_run_says_so(document: Path) -> None:
    fences = set(FENCE.findall(document.read_text()))
    assert fences <= {"python", 'python title="not run here"'}


def test_the_readme_shows_python() -> None:
    assert "README.md" in {document for document, _ in snippets()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    local = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    assert all((document.parent / link).exists() for link in local), local


def test_every_make_target_that_documents_name_exists() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = re.compile(r"(?:`|^)make ([a-z]+)\b", re.MULTILINE)  # in a code span or block
    named = {target for path in DOCUMENTS for target in said.findall(path.read_text())}
    assert {"demo", "test", "setup"} <= named <= made
