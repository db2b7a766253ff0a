"""The catalog: names of ours, of a user and of other packages, and their addresses."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.cli.conftest import cli
from tests.cli.outcome import Outcome, is_one_line_about
from tests.dictionaries.format_files import make
from tests.dictionaries.small import small
from tl_attribution.dictionaries import catalog, hub, loading, plugin_sources
from tl_attribution.dictionaries.hub import Address
from tl_attribution.errors import FormatError, InputError, NotFoundError
from tl_attribution.plugin_loading import PluginWarning
from tl_attribution.registry import Registry

__all__ = ["cli"]
KINDS = {"cross-layer transcoder", "transcoders"}


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Writes the user's file of names."""
    file = tmp_path / "names.json"
    monkeypatch.setenv(catalog.VARIABLE, str(file))

    def write(contents: Any) -> Path:
        file.write_text(contents if isinstance(contents, str) else json.dumps(contents))
        return file

    return write


def test_every_name_of_ours_leads_somewhere_and_says_where_it_was_seen() -> None:
    entries = catalog._read(catalog.OURS)
    assert {"atlas", "gemma-2-2b-clt-426k", "llama-3.2-1b-clt-524k"} <= set(entries)
    for name, entry in entries.items():
        assert entry.host or Path(entry.source).is_dir() or hub.address(entry.source), name
        assert entry.kind in KINDS, name
        assert entry.model, name
        assert entry.seen, name


def test_the_entry_of_atlas_is_true() -> None:
    entry, dictionary = loading.find("atlas"), tla.load_dictionary("atlas")
    files = [p for p in Path(entry.source).iterdir() if p.name != "evaluation.json"]
    assert entry.kind == dictionary.kind
    assert (entry.layers, entry.features) == (dictionary.n_layers, dictionary.n_features)
    assert (entry.reads, entry.writes) == (
        dictionary.feature_input_hook,
        dictionary.feature_output_hook,
    )
    assert entry.size == sum(p.stat().st_size for p in files)


def test_an_address_is_known_as_its_name_is(
    user_file: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry completes what the files lack, whether by name or by address."""
    case = make("circuit-tracer-topk", tmp_path / "d")
    config = (tmp_path / "d" / "config.yaml").read_text()
    (tmp_path / "d" / "config.yaml").write_text(config.replace("k: 9", "").replace("hook_", "x_"))
    fields = {"model": "me/m", "reads": "hook_resid_mid", "writes": "hook_mlp_out", "k": 9}
    user_file({"mine": {"source": "me/top", **fields}})
    monkeypatch.setattr(hub, "hub", lambda: _Local(tmp_path / "d"))
    for source in ("mine", "me/top", "me/top@v2", "hf://me/top"):
        loaded = tla.load_dictionary(source)
        torch.testing.assert_close(loaded.encode(case.x), case.acts, rtol=1e-5, atol=1e-5)
        assert (loaded.model_name, loaded.feature_input_hook) == ("me/m", "hook_resid_mid")
    assert tla.load_dictionary("mine", model_name="other").model_name == "other"


class _Local:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def download(self, address: Address, progress: object) -> Path:
        return self.folder


def test_a_name_may_be_known_to_a_host_alone(
    user_file: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    user_file({"theirs": {"source": "their name", "host": "json", "model": "me/m"}})

    def load(source: Any, options: plugin_sources.LoadOptions) -> tla.Dictionary | None:
        return small() if source == "their name" else None

    sources = Registry("source", {"theirs": plugin_sources.DictionarySource(load, list)})
    monkeypatch.setattr(plugin_sources, "DICTIONARY_SOURCES", sources)
    assert tla.load_dictionary("theirs").model_name == "me/m"
    user_file({"theirs": {"source": "their name", "host": "json", "k": 3}})
    with pytest.raises(InputError, match="k=3 is for files of TopK"):
        tla.load_dictionary("theirs")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotFoundError, match=r"'sae_lens' is not installed: pip install 'tl-attri"):
        tla.load_dictionary("gemma-scope-2-1b-it-transcoders-all")


def test_a_users_own_file_adds_names(user_file: Callable[[Any], Path], tmp_path: Path) -> None:
    small().save(tmp_path / "mine")
    user_file({"my-clt": {"source": "./mine", "model": "me/mine", "reads": "hook_resid_pre"}})
    loaded = tla.load_dictionary("my-clt")
    assert loaded.feature_input_hook == "hook_resid_pre"
    assert tla.load_dictionary("my-clt", feature_input_hook="x").feature_input_hook == "x"
    assert set(catalog.trained_on("MINE")) == {"my-clt"}
    with pytest.raises(NotFoundError, match="did you mean 'my-clt'"):
        tla.load_dictionary("my-cl")


def test_the_users_file_is_found_where_settings_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "tl-attribution"
    folder.mkdir()
    (folder / "dictionaries.json").write_text('{"mine": {"source": "me/mine"}}')
    monkeypatch.delenv(catalog.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert catalog.names()["mine"].source == "me/mine"


def test_other_packages_add_names_and_a_broken_one_takes_nothing_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "theirs.json").write_text('{"theirs": {"source": "they/clt"}}')
    (tmp_path / "their_names.py").write_text(f"NAMES = {str(tmp_path / 'theirs.json')!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(n, f"{n}:NAMES", catalog.GROUP) for n in ("their_names", "no_such_module")]
    monkeypatch.setattr(catalog, "entry_points", lambda group: points)
    with pytest.warns(PluginWarning, match="'no_such_module:NAMES' does not name a file"):
        entries = catalog.names()
    assert entries["theirs"].source == "they/clt"
    assert "atlas" in entries


def test_a_users_name_goes_before_a_package_and_a_package_before_ours(
    user_file: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = Registry[catalog.CatalogEntry]("dictionary name")
    monkeypatch.setattr(catalog, "DICTIONARY_NAMES", registered)
    user_file({})
    assert catalog.names()["atlas"].source != "they/atlas"
    registered.register("atlas", catalog.CatalogEntry("they/atlas"))
    registered.register("theirs", catalog.CatalogEntry("they/clt"))
    assert catalog.names()["atlas"].source == "they/atlas"
    user_file({"atlas": {"source": "me/atlas"}})
    assert catalog.names()["atlas"].source == "me/atlas"
    assert catalog.names()["theirs"].source == "they/clt"
    registered.register("a/b", catalog.CatalogEntry("they/clt"))
    with pytest.raises(InputError, match=r"'a/b'.*has no '/'"):
        catalog.names()


@pytest.mark.parametrize(
    ("contents", "error", "message"),
    [
        ('{"a": {"source": "b/c"}, "a": {"source": "b/d"}}', FormatError, "'a' is registered twi"),
        ({"neurons": {"source": "me/x"}}, FormatError, "a name is not 'neurons'"),
        ({"me/x": {"source": "me/x"}}, FormatError, "has no '/'"),
        ({"x": {"model": "me/x"}}, FormatError, "lacks 'source'"),
        ({"x": {"source": None}}, FormatError, "source must be of type str, got None"),
        ({"x": {"source": "me/x", "modle": "y"}}, FormatError, "did you mean 'model'"),
        ({"x": {"source": "me/x", "layers": "3"}}, FormatError, "layers must be of type int"),
        ({"x": {"source": "me/x", "layers": True}}, FormatError, "layers must be of type int"),
        ({"x": "me/x"}, FormatError, "expected an object"),
        ([], FormatError, "expected a JSON object"),
        ("{", FormatError, "cannot be read as names"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    user_file: Callable[[Any], Path], contents: Any, error: type[Exception], message: str
) -> None:
    file = user_file(contents)
    with pytest.raises(error, match=message) as raised:
        catalog.names()
    assert str(file) in str(raised.value)


def test_list_shows_what_is_known(
    cli: Callable[..., Outcome], user_file: Callable[[Any], Path]
) -> None:
    user_file({"odd": {"source": "me/odd", "model": "me/[red]\x1b[31modd"}})
    out = cli("list").out
    line = next(one for one in out.splitlines() if one.startswith("gemma-2-2b-clt-2.5m "))
    assert line.split() == [
        *("gemma-2-2b-clt-2.5m", "google/gemma-2-2b", "cross-layer", "transcoder", "26", "×"),
        *("98,304", "170.8", "GB", "hook_resid_mid", "→", "hook_mlp_out", "–"),
        "mntss/clt-gemma-2-2b-2.5M",
    ]
    assert r"me/[red]\x1b[31modd" in out
    assert "\x1b" not in out
    some = cli("list", "--model", "llama-3.2").out
    assert '"The capital of the state containing Dallas is" --dictionary llama-3.2-1b-clt' in some
    assert "llama-3.2-1b-clt-524k" in some
    assert "gemma" not in some
    assert is_one_line_about(cli("list", "--model", "gpt22"), "did you mean 'gpt2'")


@pytest.mark.hosts
def test_from_the_list_to_a_graph_in_two_commands(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is the line that the first one prints."""
    monkeypatch.chdir(tmp_path)
    line = next(x for x in cli("list").out.splitlines() if "tl-attribution trace" in x)
    ran = cli(*shlex.split(line)[1:])
    assert ran.code == 0, ran.err
    assert '" Austin"' in ran.out
    assert (tmp_path / "graph.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a/b", Address("a/b")),
        ("hf://a/b", Address("a/b")),
        ("a/b@v1.0", Address("a/b", revision="v1.0")),
        ("a-b/c_d/e.f/g@refs/pr/1", Address("a-b/c_d", "e.f/g", "refs/pr/1")),
        *((text, None) for text in ("a", "/a/b", "./a/b", "../a/b", "a/b/..", "a/../b", "~/a/b")),
        *((text, None) for text in ("a/b@", "a/b@../x", "a/b@/etc", "a//b", "a/b c", "a\\b/c", "")),
        *((text, None) for text in ("a/.b", "https://huggingface.co/a/b", "a/b@v1@v2", "a/b\n")),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    assert hub.address(text) == address
