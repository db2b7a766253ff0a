"""The packages of tl-attribution and which imports which, read from the code itself.

python docs/site/architecture.py OUT.svg    # the picture alone

The site's build calls :func:`picture` and :func:`table`; neither names a package.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import grimp
import networkx as nx

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import as_markdown

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
PACKAGE, PLUGINS = "tl_attribution", "plugins"
WIDTH, LINE, HEIGHT, SPACE, MARGIN, LETTER = 1000.0, 84.0, 32.0, 18.0, 12.0, 7.6
"""The picture's width, the height of a line of boxes and of a box, the least space between two, the
margin, and the width of a letter, in pixels."""
SWEEPS = 8
"""How often lines are sorted by where their neighbors stand."""

STYLE = """
.arch { width: 100%; height: auto; --box: #fff; --rim: #4453b8; --text: #1d1f24; --arrow: #4453b8 }
[data-md-color-scheme="slate"] .arch {
  --box: #262938; --rim: #96a3f5; --text: #e9eaee; --arrow: #96a3f5
}
.arch text { font: 600 13px system-ui, sans-serif; text-anchor: middle; fill: var(--text) }
.arch rect { fill: var(--box); stroke: var(--rim); stroke-width: 1.5 }
.arch .module rect { stroke-dasharray: 4 3; stroke-width: 1.2 }
.arch .plugin rect { stroke: #c0562b }
.arch path { fill: none; stroke: var(--arrow); stroke-width: 1.3; stroke-opacity: .45 }
.arch .of-plugin { stroke: #c0562b }
.arch marker path { fill: var(--arrow); stroke: none; fill-opacity: .7 }
.arch:has(g:hover) path[class] { stroke-opacity: .08 }
"""


class Unit(NamedTuple):
    """A package, a module beside the packages, or a plugin; ``about`` is its docstring's first
    sentence."""

    name: str
    kind: str
    about: str


@lru_cache(maxsize=1)
def imports() -> nx.DiGraph[str]:
    """Units by name, and an edge from each to every unit that it imports.

    Imports for type checking alone do not count. The one-way rule lets some modules import a page
    when it is asked for; such an import would close a circle and is left out too.
    """
    modules = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    units = {m: _unit(m) for m in modules.find_children(PACKAGE) if not m.endswith("__main__")}
    for importer, imported in modules.nominate_cycle_breakers(PACKAGE):
        modules.remove_import(importer=importer, imported=imported)
    for module in units:
        modules.squash_module(module)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module, unit in sorted(units.items()):
        graph.add_node(unit.name, unit=unit)
        for other in sorted(modules.find_modules_directly_imported_by(module)):
            if other in units and other != module:
                graph.add_edge(unit.name, units[other].name)
    for folder in sorted((ROOT / PLUGINS).glob("*/__init__.py")):
        name = f"{PLUGINS}/{folder.parent.name}"
        graph.add_node(name, unit=Unit(name, "plugin", _about(folder)))
        core = {f"{PACKAGE}.{part}" for part in _core_names(folder.parent)} & units.keys()
        graph.add_edges_from((name, units[module].name) for module in sorted(core))
    return graph


def _unit(module: str) -> Unit:
    path = ROOT.joinpath(*module.split("."))
    package = path.is_dir()
    file = path / "__init__.py" if package else path.with_suffix(".py")
    return Unit(module.rpartition(".")[2], "package" if package else "module", _about(file))


def _about(file: Path) -> str:
    """The first sentence of a file's docstring, "" if it has none."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
    first, stop, _ = text.partition(". ")
    return as_markdown(first + "." * bool(stop)).replace("``", "`")


def _core_names(folder: Path) -> Iterator[str]:
    """The units of the core that the files of a plugin import, by name."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                base = node.module or ""
                yield from _children([base, *(f"{base}.{alias.name}" for alias in node.names)])
            elif isinstance(node, ast.Import):
                yield from _children([alias.name for alias in node.names])


def _children(modules: list[str]) -> Iterator[str]:
    for module in modules:
        first, _, rest = module.partition(".")
        if first == PACKAGE and rest:
            yield rest.split(".")[0]


def levels(graph: nx.DiGraph[str]) -> list[list[str]]:
    """Units by line, from the bottom up: each stands above all that it imports, plugins on top."""
    line: dict[str, int] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        line[name] = 1 + max((line[other] for other in graph[name]), default=-1)
    top = max(line.values()) + 1
    for name, unit in graph.nodes("unit"):
        line[name] = top if unit.kind == "plugin" else line[name]
    occupied = sorted(set(line.values()))
    return [sorted(name for name in line if line[name] == level) for level in occupied]


def _place(graph: nx.DiGraph[str]) -> tuple[dict[str, tuple[float, float]], float]:
    """The centers of all boxes, and the picture's height. Lines are split where they are too wide,
    and sorted so that units stand near those that they import."""
    rows: list[list[str]] = []
    for level in levels(graph):
        row: list[str] = []
        for name in level:
            if row and sum(_width(n) + SPACE for n in [*row, name]) > WIDTH - 2 * MARGIN:
                rows.append(row)
                row = []
            row.append(name)
        rows.append(row)
    height = LINE * len(rows)
    places: dict[str, tuple[float, float]] = {}
    for sweep in range(SWEEPS + 1):
        for number, row in enumerate(rows):
            if sweep:
                row.sort(key=lambda name: (_mean_x(graph, name, places), name))
            spare = WIDTH - 2 * MARGIN - sum(map(_width, row))
            gap, x = spare / len(row), MARGIN
            for name in row:
                places[name] = (x + (_width(name) + gap) / 2, height - LINE * (number + 0.5))
                x += _width(name) + gap
    return places, height


def _mean_x(graph: nx.DiGraph[str], name: str, places: dict[str, tuple[float, float]]) -> float:
    near = [*graph.successors(name), *graph.predecessors(name)]
    return sum(places[other][0] for other in near) / len(near) if near else WIDTH / 2


def _width(name: str) -> float:
    return len(name) * LETTER + 24


def picture() -> str:
    """The units as boxes and their imports as arrows, as one ``<svg>`` element. An arrow that
    follows from others (A → B → C says A → C) is not drawn."""
    graph = imports()
    drawn = nx.transitive_reduction(graph)
    drawn.add_nodes_from(graph.nodes(data=True))
    places, height = _place(drawn)
    kinds = {name: unit.kind for name, unit in graph.nodes("unit")}
    arrows = "".join(
        _arrow(places[a], places[b], kinds[a]) for a, b in sorted(drawn.edges, key=str)
    )
    boxes = "".join(
        _box(unit, *places[name]) for name, unit in sorted(graph.nodes("unit"), key=str)
    )
    head = '<path d="M0 0L8 4L0 8z"/>'
    return (
        f'<svg class="arch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} '
        f'{height:.0f}" role="img" aria-label="Packages and their imports">'
        f"<style>{' '.join(STYLE.split())}</style>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto">{head}</marker></defs>{arrows}{boxes}</svg>'
    )


def _arrow(source: tuple[float, float], target: tuple[float, float], kind: str) -> str:
    x1, y1, x2, y2 = source[0], source[1] + HEIGHT / 2, target[0], target[1] - HEIGHT / 2 - 1
    bend = max(14.0, (y2 - y1) * 0.45)
    curve = f"C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    return f'<path class="of-{kind}" d="M{x1:.1f} {y1:.1f}{curve}" marker-end="url(#head)"/>'


def _box(unit: Unit, x: float, y: float) -> str:
    width = _width(unit.name)
    return (
        f'<g class="{unit.kind}"><title>{escape(unit.about.replace("`", ""))}</title>'
        f'<rect x="{x - width / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width:.1f}" '
        f'height="{HEIGHT:.0f}" rx="8"/><text x="{x:.1f}" y="{y + 4.5:.1f}">{unit.name}</text></g>'
    )


def table() -> str:
    """A Markdown table of the units, from the top down, with the first sentence of each."""
    graph = imports()
    rows = [
        f"| `{name}` | {_cell(graph.nodes[name]['unit'].about)} |"
        for level in reversed(levels(graph))
        for name in level
    ]
    return "\n".join(["| part | what it is |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture() + "\n")
