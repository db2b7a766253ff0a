"""What mkdocs does to a page of docs/ on its way to the site.

- ``::: tla.NAME`` becomes the reference of a public name, wherever its module is; ``::: returned
  tla.NAME`` that of the class which a public function or method returns.
- ``<!-- architecture: picture -->`` and ``<!-- architecture: packages -->`` become what
  docs/site/architecture.py derives from the imports.
- A link to a file of the repository outside docs/ becomes its path, as the site has no such page.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
import architecture

sys.path.pop(0)

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tl_attribution" / "__init__.pyi"
DIRECTIVE = re.compile(r"^::: (returned )?tla\.([\w.]+)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def public_names() -> dict[str, str]:
    """The dotted path at which the package's door finds each public name."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@lru_cache(maxsize=1)
def _package() -> griffe.Module:
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    package = loader.load("tl_attribution")
    loader.resolve_aliases(implicit=True)
    assert isinstance(package, griffe.Module)
    return package


def _lookup(name: str) -> griffe.Object:
    """The object behind ``NAME`` or ``NAME.method``."""
    first, *rest = name.split(".")
    names = public_names()
    if first not in names:
        raise SystemExit(f"the reference names tla.{first}, which is not a public name")
    member: Any = _package()
    for part in [*names[first].split("."), *rest]:
        member = member.all_members[part]
        member = member.final_target if member.is_alias else member
    return member


def _returned(name: str) -> str:
    """The path of the class that a function returns."""
    function = _lookup(name)
    assert isinstance(function, griffe.Function)
    if not isinstance(function.returns, griffe.Expr):
        raise SystemExit(f"tla.{name} does not say in its signature what it returns")
    classes = [
        _package().modules_collection[n.canonical_path]
        for n in function.returns.iterate()
        if isinstance(n, griffe.ExprName) and n.canonical_path.startswith("tl_attribution.")
    ]
    first: Any = classes[0]
    return (first.final_target if first.is_alias else first).path  # fmt: skip


def _directive(match: re.Match[str]) -> str:
    name = match[2]
    if match[1]:
        path = _returned(name)
        return f'::: {path}\n    options:\n      heading: "{path.rpartition(".")[2]}"'
    return f'::: {_lookup(name).path}\n    options:\n      heading: "tla.{name}"'


def _local_path(page: Path, docs: Path, text: str, link: str) -> str | None:
    """A link to a file of the repository that is not a page, as text; None for any other link."""
    target = (page.parent / link).resolve()
    if "://" in link or target.is_relative_to(docs) or not target.exists():
        return None
    path = os.path.relpath(target, ROOT)
    return f"`{path}`" if text in (path, target.name) else f"{text} (`{path}`)"


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page's text as it goes to Markdown; code blocks stay as they are."""
    docs, source = Path(config["docs_dir"]).resolve(), Path(page.file.abs_src_path).resolve()

    def link(match: re.Match[str]) -> str:
        return _local_path(source, docs, match[1], match[2]) or match[0]

    parts = FENCE.split(markdown)
    for i in range(0, len(parts), 2):
        text = LINK.sub(link, DIRECTIVE.sub(_directive, parts[i]))
        if "<!-- architecture" in text:
            text = text.replace("<!-- architecture: picture -->", architecture.picture())
            text = text.replace("<!-- architecture: packages -->", architecture.table())
        parts[i] = text
    return "".join(parts)
