"""Modules that import one another, also inside functions and for type checking only."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from pathlib import Path

import networkx

ROOT = Path(__file__).parent.parent
FOLDERS = {"tl_attribution": "tl_attribution", "plugins": "tl_attribution.plugins"}
LARGEST = 2
"""Modules in a cycle: a value and what it is shown or written by."""


def modules() -> dict[str, Path]:
    """Every module of the package and its plugins by its dotted name."""
    names = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (package, *path.relative_to(ROOT / folder).with_suffix("").parts)
            names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imports(path: Path, names: Container[str]) -> Iterator[str]:
    """The modules that a file's import statements name; ``from x import y`` names x.y, or x if y is
    not a module."""
    for statement in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names if alias.name in names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"{path} has a relative import"
            for alias in statement.names:
                module = f"{statement.module}.{alias.name}"
                yield module if module in names else str(statement.module)


def cycles() -> list[set[str]]:
    """Sets of two or more modules that import one another, directly or through others."""
    paths = modules()
    graph = networkx.DiGraph()
    for name, path in paths.items():
        graph.add_edges_from((name, target) for target in imports(path, paths))
    return [cycle for cycle in networkx.strongly_connected_components(graph) if len(cycle) > 1]


def test_no_more_than_two_modules_import_one_another() -> None:
    for cycle in cycles():
        assert len(cycle) <= LARGEST, sorted(cycle)
