"""The door for other packages: every registry and protocol by which they extend this one.

``docs/extending.md`` shows how; ``tl_attribution/registry.py`` states the one rule of precedence.
``extend.pyi`` lists the names; nothing is imported before it is used.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

_MODULES = {
    alias.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]  # extend.pyi is read


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
