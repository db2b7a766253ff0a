"""The public door: every name leads somewhere, and nothing is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tl_attribution as tla

STUB = Path(tla.__file__).with_suffix(".pyi")
HEAVY = ("torch", "transformers", "transformer_lens", "sae_lens", "networkx", "pandas")


def modules_of_names() -> dict[str, str]:
    imports = ast.parse(STUB.read_text()).body
    return {
        alias.name: node.module or ""
        for node in imports
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", tla.__all__)
def test_every_public_name_is_a_documented_class_or_function(name: str) -> None:
    value = getattr(tla, name)
    assert not isinstance(value, ModuleType)
    assert callable(value)
    assert value.__doc__, f"tla.{name} has no docstring"


def test_errors_are_all_public() -> None:
    from tl_attribution import errors

    family = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TlAttributionError)
    }
    assert family <= set(tla.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="atribute"):
        _ = tla.atribute  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("name", "module"),
    [(n, module) for n, module in modules_of_names().items() if module.endswith(f".{n}")],
)
@pytest.mark.parametrize("first", ["import tl_attribution.{module}", "tla.{name}"])
def test_a_function_named_like_its_module_stays_a_function(
    name: str, module: str, first: str
) -> None:
    code = f"""
import importlib, types
import tl_attribution as tla
{first.format(name=name, module=module)}
importlib.import_module("tl_attribution.{module}")
assert isinstance(tla.{name}, types.FunctionType), tla.{name}
from tl_attribution import {name}
assert {name} is tla.{name}
"""
    run(code)


@pytest.mark.parametrize("module", ["tl_attribution", "tl_attribution.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()
    assert "tl_attribution" in loaded
    assert not set(loaded) & set(HEAVY)
