"""Plugins are found by entry point, wait for their host, and never take it down."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from itertools import count
from pathlib import Path

import pytest

from tl_attribution import plugin_loading
from tl_attribution.plugin_loading import GROUP, PluginWarning

PLUGIN = "seen = []\ndef install(host):\n    seen.append(host.__name__)\n"
BROKEN = "def install(host):\n    raise ValueError('no such hook')\n"
names = (f"made_up_{i}" for i in count())


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Names of a host and of a plugin module that exist on disk and were never imported."""
    monkeypatch.syspath_prepend(tmp_path)
    host, plugin = next(names), next(names)
    (tmp_path / f"{host}.py").write_text("x = 1\n")
    (tmp_path / f"{plugin}.py").write_text(PLUGIN)
    importlib.invalidate_caches()
    yield host, plugin
    for name in (host, plugin):
        sys.modules.pop(name, None)


def entry(host: str, plugin: str) -> EntryPoint:
    return EntryPoint(name=host, value=f"{plugin}:install", group=GROUP)


def test_a_plugin_is_loaded_when_its_host_is_imported_and_not_before(
    modules: tuple[str, str],
) -> None:
    host, plugin = modules
    plugin_loading.watch(entry(host, plugin))
    assert plugin not in sys.modules
    importlib.import_module(host)
    assert sys.modules[plugin].seen == [host]


def test_a_plugin_is_loaded_at_once_if_its_host_is_already_there(
    modules: tuple[str, str],
) -> None:
    host, plugin = modules
    importlib.import_module(host)
    plugin_loading.watch(entry(host, plugin))
    assert sys.modules[plugin].seen == [host]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (BROKEN, "ValueError: no such hook"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("x = 1\n", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_named_and_its_host_still_imports(
    modules: tuple[str, str], tmp_path: Path, source: str, cause: str
) -> None:
    host, plugin = modules
    (tmp_path / f"{plugin}.py").write_text(source)
    plugin_loading.watch(entry(host, plugin))
    with pytest.warns(PluginWarning) as warned:
        assert importlib.import_module(host).x == 1
    assert f"{plugin}:install" in str(warned[0].message)
    assert cause in str(warned[0].message)


def test_another_package_can_declare_a_plugin(modules: tuple[str, str], tmp_path: Path) -> None:
    host, plugin = modules
    info = tmp_path / "somebody_elses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{host} = {plugin}:install\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import tl_attribution
assert {plugin!r} not in sys.modules
import {host}
assert sys.modules[{plugin!r}].seen == [{host!r}]
"""
    run(code)


def test_our_own_plugins_are_declared_and_can_be_loaded() -> None:
    declared = {p.name: p for p in entry_points(group=GROUP) if p.dist and p.dist.name == OURS}
    assert set(declared) == {"huggingface_hub", "sae_lens", "transformer_lens", "wandb"}
    assert all(callable(plugin.load()) for plugin in declared.values())


OURS = "tl-attribution"
LIBRARIES = ("import tl_attribution", "import transformer_lens")


@pytest.mark.hosts
@pytest.mark.parametrize("imports", [LIBRARIES, LIBRARIES[::-1]], ids=["ours first", "host first"])
def test_both_model_classes_get_one_method_and_nothing_else(imports: tuple[str, str]) -> None:
    code = f"""
import sys, warnings
warnings.simplefilter("error", RuntimeWarning)
{imports[0]}
early = vars(sys.modules.get("transformer_lens", sys)).get("HookedTransformer")
before = set(vars(early)) if early else None
{imports[1]}
bridge = getattr(sys.modules.get("transformer_lens.model_bridge"), "TransformerBridge", None)
hooked = vars(transformer_lens).get("HookedTransformer")
served = [model for model in (bridge, hooked) if model]
assert served
assert all(callable(model.attribution_graph) for model in served), served
assert before is None or set(vars(early)) - before == {{"attribution_graph"}}
"""
    run(code)


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
