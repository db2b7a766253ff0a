"""The public doors: every name resolves, and nothing is imported before it is used."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_args, get_type_hints

import networkx
import pytest
import torch

import tl_attribution as tla
from tl_attribution import extend

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


REGISTRY = re.compile(r"^([A-Z_]+)(?:: Registry\[.+\])? = Registry", re.MULTILINE)
DOORS = ["tl_attribution", "tl_attribution.extend"]
FOR_OTHER_PACKAGES = {"WritesJson", "MlpWeights", "StoredLayer", "Traceable"}
"""Types of public signatures that only extensions use: they are in the second door."""


def functions_of(value: Any) -> Iterator[FunctionType]:
    """A public function, or the public methods, properties and written constructor of a class."""
    if isinstance(value, FunctionType):
        yield value
        return
    for cls in value.__mro__:
        for name, member in vars(cls).items():
            function = getattr(member, "fget", None) or getattr(member, "func", None) or member
            function = inspect.unwrap(getattr(function, "__func__", function))
            public = not name.startswith("_") or (name == "__init__" and not is_dataclass(cls))
            if public and isinstance(function, FunctionType) and is_ours(function):
                yield function


def is_ours(value: FunctionType | type) -> bool:
    return value.__module__.startswith("tl_attribution.")


def classes_in(hint: Any) -> Iterator[type]:
    """Our classes in a type hint, those in its arguments included."""
    if isinstance(hint, type) and not get_args(hint) and is_ours(hint):
        yield hint
    for argument in hint if isinstance(hint, list) else get_args(hint):
        yield from classes_in(argument)


@pytest.mark.parametrize("name", tla.__all__)
def test_the_door_has_every_class_that_a_public_signature_names(name: str) -> None:
    for_type_checking = {"Published": tla.Published, "networkx": networkx, "torch": torch}
    for function in functions_of(getattr(tla, name)):
        for hint in get_type_hints(function, localns=for_type_checking).values():
            for cls in classes_in(hint):
                door = extend if cls.__name__ in FOR_OTHER_PACKAGES else tla
                assert getattr(door, cls.__name__, None) is cls, (function.__qualname__, cls)


def test_signatures_are_walked_into_methods_and_arguments() -> None:
    walked = {
        cls
        for function in functions_of(tla.Graph)
        for cls in classes_in(get_type_hints(function, localns={"networkx": networkx})["return"])
    }
    assert {tla.GraphPath, tla.Upstream, tla.Scores, tla.Graph} <= walked


@pytest.mark.parametrize("door", [tla, extend])
def test_dir_shows_the_door(door: ModuleType) -> None:
    assert set(dir(door)) == set(door.__all__)


def test_the_second_door_has_every_registry_and_each_is_documented() -> None:
    registries = {
        name
        for file in Path(tla.__file__).parent.rglob("*.py")
        for name in REGISTRY.findall(file.read_text())
    }
    assert len(registries) == 9
    assert all(isinstance(getattr(extend, name), extend.Registry) for name in registries)
    text = (STUB.parents[1] / "docs" / "extending.md").read_text()
    assert all(f"| `{name}` |" in text for name in registries)


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


@pytest.mark.parametrize("module", [*DOORS, "tl_attribution.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()
    assert "tl_attribution" in loaded
    assert not set(loaded) & set(HEAVY)
