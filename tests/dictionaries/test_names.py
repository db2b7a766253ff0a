"""Names of dictionaries: ours, a user's, other packages'; and the addresses they lead to."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import tl_attribution as tla
from tests.cli.conftest import cli
from tests.cli.running import Ran, is_one_line_about
from tests.dictionaries.small import small
from tl_attribution.dictionaries import names, registry, remote
from tl_attribution.dictionaries.remote import Address
from tl_attribution.errors import FormatError, InputError, NotFoundError
from tl_attribution.plugin_loading import PluginWarning

__all__ = ["cli"]
KINDS = {"cross-layer transcoder", "transcoders"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Writes the user's own file of names."""
    file = tmp_path / "names.json"
    monkeypatch.setenv(names.VARIABLE, str(file))

    def write(held: Any) -> Path:
        file.write_text(held if isinstance(held, str) else json.dumps(held))
        return file

    return write


def test_every_name_of_ours_leads_somewhere_and_says_where_it_was_seen() -> None:
    found = names._read(names.OURS)
    assert {"atlas", "gemma-2-2b-clt-426k", "llama-3.2-1b-clt-524k"} <= set(found)
    for name, entry in found.items():
        assert Path(entry.source).is_dir() or remote.address(entry.source), name
        assert entry.kind in KINDS, name
        assert entry.model, name
        assert entry.seen, name


def test_the_entry_of_atlas_is_true() -> None:
    entry, dictionary = registry.find("atlas"), tla.load_dictionary("atlas")
    files = [p for p in Path(entry.source).iterdir() if p.name != "evaluation.json"]
    assert entry.kind == dictionary.kind
    assert (entry.layers, entry.features) == (dictionary.n_layers, dictionary.n_features)
    assert (entry.reads, entry.writes) == (
        dictionary.feature_input_hook,
        dictionary.feature_output_hook,
    )
    assert entry.size == sum(p.stat().st_size for p in files)


def test_a_users_own_file_adds_names(own: Callable[[Any], Path], tmp_path: Path) -> None:
    small().save(tmp_path / "mine")
    own({"my-clt": {"source": "./mine", "model": "me/mine", "reads": "hook_resid_pre"}})
    loaded = tla.load_dictionary("my-clt")
    assert loaded.feature_input_hook == "hook_resid_pre"
    assert tla.load_dictionary("my-clt", feature_input_hook="x").feature_input_hook == "x"
    assert set(names.trained_on("MINE")) == {"my-clt"}
    with pytest.raises(NotFoundError, match="did you mean 'my-clt'"):
        tla.load_dictionary("my-cl")


def test_the_users_file_is_found_where_settings_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "tl-attribution"
    folder.mkdir()
    (folder / "dictionaries.json").write_text('{"mine": {"source": "me/mine"}}')
    monkeypatch.delenv(names.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert names.names()["mine"].source == "me/mine"


def test_other_packages_add_names_and_a_broken_one_takes_nothing_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "theirs.json").write_text('{"theirs": {"source": "they/clt"}}')
    (tmp_path / "their_names.py").write_text(f"NAMES = {str(tmp_path / 'theirs.json')!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(n, f"{n}:NAMES", names.GROUP) for n in ("their_names", "no_such_module")]
    monkeypatch.setattr(names, "entry_points", lambda group: points)
    with pytest.warns(PluginWarning, match="'no_such_module:NAMES' does not name a file"):
        found = names.names()
    assert found["theirs"].source == "they/clt"
    assert "atlas" in found


@pytest.mark.parametrize(
    ("held", "error", "said"),
    [
        ({"atlas": {"source": "me/x"}}, InputError, "'atlas' is registered twice: in .* and in "),
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
    own: Callable[[Any], Path], held: Any, error: type[Exception], said: str
) -> None:
    file = own(held)
    with pytest.raises(error, match=said) as told:
        names.names()
    assert str(file) in str(told.value)


def test_list_shows_what_is_known(cli: Callable[..., Ran], own: Callable[[Any], Path]) -> None:
    own({"odd": {"source": "me/odd", "model": "me/[red]\x1b[31modd"}})
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
    assert "llama-3.2-1b-clt-524k" in some
    assert "gemma" not in some
    assert is_one_line_about(cli("list", "--model", "gpt22"), "did you mean 'gpt2'")


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
    assert remote.address(text) == address
