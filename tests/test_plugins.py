"""Plugins are discovered by entry point, wait for their host, and never break it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tl_attribution import plugin_loading
from tl_attribution.plugin_loading import GROUP, PluginWarning

PLUGIN = "calls = []\ndef install(host):\n    calls.append(host.__name__)\n"
BROKEN = "def install(host):\n    raise ValueError('no such hook')\n"
names = (f"imaginary_{i}" for i in count())


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
    assert sys.modules[plugin].calls == [host]


def test_a_plugin_is_loaded_at_once_if_its_host_is_already_there(
    modules: tuple[str, str],
) -> None:
    host, plugin = modules
    importlib.import_module(host)
    plugin_loading.watch(entry(host, plugin))
    assert sys.modules[plugin].calls == [host]


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
    declare(tmp_path, f"[{GROUP}]\n{host} = {plugin}:install\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import tl_attribution
assert {plugin!r} not in sys.modules
import {host}
assert sys.modules[{plugin!r}].calls == [{host!r}]
"""
    run(code)


def declare(folder: Path, entry_points: str) -> None:
    """Write the metadata of an installed package that has these entry points."""
    info = folder / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


ACME = """
from pathlib import Path
from tl_attribution.extend import (
    CALLBACKS, DICTIONARY_FORMATS, DICTIONARY_NAMES, GRAPH_TRACKERS, HOSTS, Callback, CatalogEntry,
    DictionaryFiles, DictionaryFormat, GraphTracker, ReLU, StoredLayer, StoredMatrix, TensorFile,
)

class Model:
    def parameters(self):
        return iter(())

class Adapter:
    def __init__(self, model):
        self.model = model

class Watcher(Callback):
    def __init__(self, argument):
        self.argument = argument

def read(folder):
    file = TensorFile(folder / "acme.safetensors")
    encoder, decoders = StoredMatrix(file, "encoder"), (StoredMatrix(file, "decoder"),)
    layer = StoredLayer(encoder, file.read("b_enc"), decoders, file.read("b_dec"))
    return DictionaryFiles("transcoders", [layer], ReLU(), "mlp.hook_in", "hook_mlp_out", "acme")

def install(acme):
    recognizes = lambda folder: (folder / "acme.safetensors").is_file()
    needs = "acme.safetensors"
    DICTIONARY_FORMATS.register("acme", DictionaryFormat("acme", needs, recognizes, read))
    CALLBACKS.register("acme", Watcher)
    GRAPH_TRACKERS.register("acme", GraphTracker(check=str, log=lambda g, run: run, load=str))
    HOSTS.register(Model, Adapter)
    DICTIONARY_NAMES.register("acme-by-code", CatalogEntry("by/code"))
"""
ACME_ENTRY_POINTS = f"""[{GROUP}]
acme = acme:install
[tl_attribution.dictionaries]
acme = acme_names:NAMES
"""
USES = {
    "a format": """
dictionary = tla.load_dictionary(FOLDER / "weights")
assert dictionary.model_name == "acme" and dictionary.n_features == 3, dictionary
""",
    "a name in a file": """
assert tla.load_dictionary("acme-by-file").n_features == 3
assert "acme" in sys.modules  # imported for its format
""",
    "a name by code": """
import acme
from tl_attribution.dictionaries.catalog import names
assert names()["acme-by-code"].source == "by/code"
""",
    "a callback": """
from tl_attribution.training.callbacks import callback
assert callback("acme:losses").argument == "losses"
""",
    "a tracker": """
assert tla.load_graph("acme:somewhere") == "somewhere"
""",
    "a host": """
import acme
from tl_attribution.hosts.opening import open_host
model = type("Derived", (acme.Model,), {})()
assert type(open_host(model)) is acme.Adapter
""",
}


@pytest.mark.parametrize("use", USES)
def test_a_package_extends_every_part_with_the_second_door_alone(use: str, tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(ACME)
    (tmp_path / "acme_names.py").write_text(f"NAMES = {str(tmp_path / 'names.json')!r}\n")
    names = {"acme-by-file": {"source": "./weights"}}
    (tmp_path / "names.json").write_text(json.dumps(names))
    weights = {"encoder": torch.ones(3, 2), "decoder": torch.ones(3, 2)}
    weights |= {"b_enc": torch.zeros(3), "b_dec": torch.zeros(2)}
    (tmp_path / "weights").mkdir()
    save_file(weights, tmp_path / "weights" / "acme.safetensors")
    declare(tmp_path, ACME_ENTRY_POINTS)
    run(f"""
import sys
from pathlib import Path
FOLDER = Path({str(tmp_path)!r})
sys.path.insert(0, str(FOLDER))
import tl_attribution as tla
assert "acme" not in sys.modules
{USES[use]}
""")


def test_our_plugins_are_declared_and_can_be_loaded() -> None:
    declared = {p.name: p for p in entry_points(group=GROUP) if p.dist and p.dist.name == OURS}
    assert set(declared) == {"huggingface_hub", "sae_lens", "transformer_lens", "wandb"}
    assert all(callable(plugin.load()) for plugin in declared.values())


OURS = "tl-attribution"
LIBRARIES = ("import tl_attribution", "import transformer_lens")


METHOD = """
import inspect, transformer_lens, tl_attribution as tla
bridge = getattr(sys.modules.get("transformer_lens.model_bridge"), "TransformerBridge", None)
hooked = vars(transformer_lens).get("HookedTransformer")
for model in filter(None, (bridge, hooked)):
    method = inspect.signature(model.attribution_graph.__get__(object()))
    whole = inspect.signature(tla.attribute)
    assert list(method.parameters.values()) == list(whole.parameters.values())[1:]
    assert method.return_annotation == whole.return_annotation
    assert inspect.getdoc(model.attribution_graph) == inspect.getdoc(tla.attribute)
    assert "attribution_graph" in dir(model)
    help_text = pydoc.render_doc(model, renderer=pydoc.plaintext).replace("'", "")
    shown = " ".join(help_text.partition("attribution_graph = attribute(")[2].split())
    assert 0 < shown.find("max_logits: int = 10") < shown.find("The model may be on any device")
"""


@pytest.mark.hosts
def test_help_shows_the_methods_signature_and_documentation() -> None:
    run("import pydoc, sys\n" + METHOD)


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
