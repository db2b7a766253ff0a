"""The wheel holds what the checkout holds, under the names that are promised."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "tl_attribution", "plugins")
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that nothing stale is in it and nothing is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=NOT_SHIPPED)
        else:
            shutil.copy(path, source / name)
    command = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    pip(*command, str(source))
    return next(out.glob("*.whl"))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def shipped_from_checkout() -> set[str]:
    files = {
        path.relative_to(ROOT).as_posix()
        for name in ("tl_attribution", "plugins")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    return {f"tl_attribution/{f}" if f.startswith("plugins/") else f for f in files}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert found == shipped_from_checkout()
    assert "tl_attribution/py.typed" in found


def test_core_and_plugins_import_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    code = """
import tl_attribution, tl_attribution.cli
import tl_attribution.plugins as plugins
from importlib.metadata import version
print(tl_attribution.__file__, plugins.__file__, version("tl-attribution"), sep="\\n")
"""
    core, plugins, version = python(code, tmp_path, {"PYTHONPATH": str(target)})
    assert Path(core) == target / "tl_attribution" / "__init__.py"
    assert Path(plugins) == target / "tl_attribution" / "plugins" / "__init__.py"
    assert version == "0.1.0"


def test_plugins_have_one_name_only(tmp_path: Path) -> None:
    code = """
import importlib.util
import tl_attribution.plugins
print(importlib.util.find_spec("plugins"))
"""
    assert python(code, tmp_path, {}) == ["None"]


def python(code: str, cwd: Path, environment: dict[str, str]) -> list[str]:
    """Lines that ``code`` prints, away from the checkout: only what is installed counts."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PATH": "", "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
