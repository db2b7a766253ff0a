"""Dictionaries on the Hub, over real HTTP with the real client, against a Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants, utils
from huggingface_hub.utils import _http

import tl_attribution as tla
from tests.cli.conftest import cli
from tests.cli.running import Ran, is_one_line_about
from tests.dictionaries.small import N_LAYERS, X, small
from tests.hub_server import SIGNATURE, TOKEN, Repo, State, serving
from tl_attribution.atlas import corpus
from tl_attribution.dictionaries import publishing, remote
from tl_attribution.errors import HubError, InputError, NotFoundError, TlAttributionError

__all__ = ["cli"]
# The client's own way to send a file to storage, which its HTTP library discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

ATLAS = Path(corpus.__file__).parent / "dictionary"
REPO = "me/tiny-clt"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A Hub, and a client that is logged in to it, with a cache of its own. The constants are
    patched because the client read its environment when it was imported, offline."""
    with serving() as state:
        patched = {
            "ENDPOINT": state.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": state.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        for name, value in patched.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between tries
        _forget_sessions()
        utils.disable_progress_bars()
        yield state
        utils.enable_progress_bars()
        _forget_sessions()


def _forget_sessions() -> None:
    """Clients before 1.0 decide on being offline when a session opens."""
    getattr(_http, "reset_sessions", lambda: None)()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny dictionary's files."""
    small().save(tmp_path / "d")
    return tmp_path / "d"


def files(state: State, repo: str = REPO, revision: str = "main") -> set[str]:
    held = state.repos[repo]
    return set(held.commits[held.resolve(revision) or ""]) - {".gitattributes"}


LAYERS = {f"layer_{i}.safetensors" for i in range(N_LAYERS)}
WHOLE = {"config.json", "README.md", *LAYERS}


def test_what_is_published_is_what_others_load(hub: State, folder: Path) -> None:
    done = publishing.publish(folder, REPO, licence="mit", tag="v1")
    assert files(hub) == WHOLE
    assert done.address == f"{REPO}@v1"
    assert len(hub.repos[REPO].commits) == 2  # the repository's first, and all of ours
    loaded = tla.load_dictionary(REPO)
    assert torch.equal(loaded.encode(X), small().encode(X))
    assert loaded.model_name == "gpt2"
    for source in (f"{REPO}@v1", f"{REPO}@{done.commit}", f"hf://{REPO}", f"{REPO}@main"):
        assert repr(tla.load_dictionary(source)) == repr(loaded)


def test_only_what_a_dictionary_needs_is_fetched_and_only_once(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    repo = hub.repos[REPO]
    extras = ("features/index.json", "evil.pt", "script.py", "checkpoints/x.safetensors")
    tree = {**repo.commits[repo.branches["main"]], **dict.fromkeys(extras, ("regular", b"x"))}
    repo.commit("main", tree)
    hub.asked.clear()
    tla.load_dictionary(REPO)
    fetched = [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]
    assert sorted(line.rpartition("/")[2] for line in fetched) == sorted(WHOLE - {"README.md"})
    assert "config.json" in fetched[-1]  # last, so that half a dictionary is none
    hub.asked.clear()
    tla.load_dictionary(REPO)
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_offline_the_cache_is_enough(
    hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = publishing.publish(folder, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _forget_sessions()
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set; and the cache in .* does not hold"):
        tla.load_dictionary(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _forget_sessions()
    loaded = tla.load_dictionary(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _forget_sessions()
    for source in (REPO, f"{REPO}@{done.commit}"):
        assert torch.equal(tla.load_dictionary(source).encode(X), loaded.encode(X))


def test_a_hub_in_trouble_is_no_reason_to_stop(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    loaded = tla.load_dictionary(REPO)
    hub.fail("GET /api/models", 503)
    assert repr(tla.load_dictionary(REPO)) == repr(loaded)


def test_a_folder_of_a_repository_and_folders_of_layers(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    repo = hub.repos[REPO]
    tree = {f"deep/{n}": held for n, held in repo.commits[repo.branches["main"]].items()}
    repo.commit("main", tree)
    assert torch.equal(tla.load_dictionary(f"{REPO}/deep").encode(X), small().encode(X))
    with pytest.raises(HubError, match=r"none of the layouts of a dictionary \(found: deep/\)"):
        tla.load_dictionary(REPO)
    sizes = {f"gpt2-tc{i}/sae.safetensors": 9 for i in range(3)}
    told = {f"gpt2-tc{i}/cfg.json": 9 for i in range(3)}
    at = remote.Address("a/b")
    found = remote.needed({**told, **sizes, "features/a.safetensors": 9}, at)
    assert found == [*sorted(sizes), *sorted(told)]
    with pytest.raises(HubError, match="several dictionaries"):
        remote.needed({**sizes, "gpt2-tc1-large/sae.safetensors": 9}, at)


CONFIG = """\
model_name: gpt2
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: hook_mlp_out
transcoders:
- hf://them/weights/a/layer_0.safetensors
- "hf://them/weights/b/layer_1.safetensors?revision=v2"
- ours.safetensors
"""


def test_a_config_may_name_files_of_other_repositories(
    hub: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    hub.repos["them/weights"], hub.repos[REPO] = Repo(), Repo()
    theirs, ours = hub.repos["them/weights"], hub.repos[REPO]
    theirs.commit("main", {"a/layer_0.safetensors": ("lfs", b"zero")})
    theirs.tags["v2"] = theirs.commit("x", {"b/layer_1.safetensors": ("lfs", b"one")})
    named = {"set/config.yaml": ("regular", CONFIG.encode())}
    ours.commit(
        "main", {**named, "set/ours.safetensors": ("lfs", b"two"), "big.bin": ("lfs", b"x")}
    )
    gathered = remote.hub().download(remote.Address(REPO, "set"), None)
    weights = {p.name: p.read_bytes() for p in gathered.glob("*.safetensors")}
    assert weights == {f"layer_{i}.safetensors": w for i, w in enumerate((b"zero", b"one", b"two"))}
    assert "hf://" not in (gathered / "config.yaml").read_text()
    assert "- layer_2.safetensors" in (gathered / "config.yaml").read_text()
    hub.fail(".*", 503)
    assert remote.hub().download(remote.Address(REPO, "set"), None) == gathered
    hub.faults.clear()
    for i, name in enumerate(("hf://them/weights/evil.pt", "../../x.npz", "hf://them/../x.npz")):
        config = CONFIG.replace("ours.safetensors", name)
        ours.commit("main", {f"bad{i}/config.yaml": ("regular", config.encode())})
        with pytest.raises(HubError, match=r"only \.safetensors and \.npz|lies outside of it"):
            remote.hub().download(remote.Address(REPO, f"bad{i}"), None)


def test_a_cut_download_goes_on_where_it_ended(hub: State, folder: Path) -> None:
    done = publishing.publish(folder, REPO)
    hub.hang_up("GET .*layer_1", after=1000)
    with pytest.raises(HubError, match=r"cannot download layer_1.safetensors .*try again"):
        tla.load_dictionary(REPO)
    hub.fail("GET /api/models", 500)
    with pytest.raises(HubError, match="holds only a part of"):  # not read as a smaller one
        tla.load_dictionary(f"{REPO}@{done.commit}")
    hub.faults.clear()
    hub.asked.clear()
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))
    assert not [line for line in hub.asked if "GET" in line and "layer_0" in line]
    assert [line for line in hub.asked if line.endswith("layer_1.safetensors bytes=1000-")]


def test_what_arrives_damaged_is_found_and_removed(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    right = dict(hub.stored)
    hub.stored.update({oid: data[:-1] + b"!" for oid, data in right.items()})
    with pytest.raises(HubError, match=r"layer_\d.safetensors .*arrived damaged"):
        tla.load_dictionary(REPO)
    hub.stored.update(right)
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))


def test_an_upload_that_is_cut_publishes_nothing_and_goes_on(
    hub: State, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.hang_up("PUT .*", after=500, times=99)
    with pytest.raises(
        HubError, match=f"cannot publish to {REPO}: the connection .*failed"
    ) as told:
        publishing.publish(folder, REPO)
    assert SIGNATURE not in str(told.value)
    assert "Retrying" in caplog.text
    assert SIGNATURE not in caplog.text
    assert files(hub) == set()
    assert len(hub.repos[REPO].commits) == 1
    hub.faults.clear()
    hub.fail("PUT .*", 500)
    with pytest.raises(HubError, match="trouble"):
        publishing.publish(folder, REPO)
    assert files(hub) == set()
    hub.faults.clear()
    publishing.publish(folder, REPO)
    assert files(hub) == WHOLE
    hub.asked.clear()
    publishing.publish(folder, REPO, revision="again")
    assert not [line for line in hub.asked if line.startswith("PUT")]  # nothing is sent twice


def test_a_new_dictionary_replaces_the_old_one_whole(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    repo = hub.repos[REPO]
    more = {"layer_7.safetensors": ("regular", b"old"), "notes.md": ("regular", b"mine")}
    repo.commit("main", {**repo.commits[repo.branches["main"]], **more})
    small(3).push_to_hub(REPO)
    assert files(hub) == {*WHOLE, "notes.md"}
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small(3).encode(X))


def test_the_card_tells_what_it_is_and_holds_names_as_text(hub: State, folder: Path) -> None:
    run = {"config": {"tokens": 5000, "k": 8}, "data": "my|data\n# <script>"}
    (folder.parent / "run.json").write_text(json.dumps(run))
    summary = {"summary": {"nmse": 0.1234567, "graph_replacement": 0.9, "tokens": 4096}}
    (folder / "evaluation.json").write_text(json.dumps(summary))
    publishing.publish(folder, REPO, licence="mit")
    assert files(hub) == {*WHOLE, "evaluation.json"}
    repo = hub.repos[REPO]
    card = repo.commits[repo.branches["main"]]["README.md"][1].decode()
    data = ModelCard(card).data.to_dict()
    assert data["license"] == "mit"
    assert data["library_name"] == "tl-attribution"
    assert {"tl-attribution", "cross-layer-transcoder", "gpt2"} <= set(data["tags"])
    assert "| squared error over variance (NMSE) | 0.1235 |" in card
    assert "| tokens | 5000 |" in card
    assert "| text | my\\|data \\# &lt;script&gt; |" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) == 4
    asked: list[Any] = []
    fake = {"load_model": asked.append, "attribute": lambda *given: asked.append(given[1])}
    exec(code.replace("import tl_attribution as tla", ""), {"tla": _Fake(fake)})
    assert asked == [REPO, "gpt2", "The capital of France is"]


class _Fake:
    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.load_model, self.attribute = functions["load_model"], functions["attribute"]
        self.load_dictionary = functions["load_model"]


def _publish(folder: Path, **options: Any) -> Callable[[], Any]:
    return lambda: publishing.publish(folder, options.pop("repo", REPO), **options)


def test_what_the_hub_refuses_is_told_in_one_line(
    hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    publishing.publish(folder, REPO, tag="v1")
    hub.repos["me/gated"] = Repo(gated=True)
    hub.repos["me/gated"].commits = hub.repos[REPO].commits
    hub.repos["me/gated"].branches = hub.repos[REPO].branches
    hub.repos["me/pickles"] = Repo()
    hub.repos["me/pickles"].commit("main", {"pytorch_model.bin": ("lfs", b"x")})
    hub.repos["me/tricks"] = Repo()
    hub.repos["me/tricks"].commit("main", {"../../x.safetensors": ("lfs", b"x")})

    def load(source: str) -> Callable[[], Any]:
        return lambda: tla.load_dictionary(source)

    told(NotFoundError, "no such path.*no repository me/nothing at", load("me/nothing"))
    told(NotFoundError, "has no such revision", load(f"{REPO}@v2"))
    told(HubError, "is gated. Ask for access at .*/me/gated, then log in", load("me/gated"))
    told(HubError, "holds pickles and no safetensors", load("me/pickles"))
    told(HubError, "leads out of the repository", load("me/tricks"))
    told(NotFoundError, "no address on the Hub", load("me/../etc"))
    told(HubError, "has a tag v1 already", _publish(folder, tag="v1"))
    told(HubError, "is public, and --private would not", _publish(folder, private=True))
    told(HubError, "your token may not do that", _publish(folder, repo="somebody-else/x"))
    told(InputError, "give ORGANISATION/NAME", _publish(folder, repo="just-a-name"))
    told(InputError, "give ORGANISATION/NAME", _publish(folder, repo="me/x/y"))
    for status, said in ((412, "changed at the same time"), (429, "too many requests")):
        hub.fail("POST .*/commit/", status)
        (folder / "README.md").write_text(f"a change {status}")
        told(HubError, said, _publish(folder))
        hub.faults.clear()
    hub.fail("GET /api/models", 401, "Invalid credentials in Authorization header")
    told(HubError, "does not know your token.*hf auth login", load(REPO))
    hub.faults.clear()
    publishing.publish(folder, "me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    told(NotFoundError, "private and you are not logged in.*`hf auth login`", load("me/secret"))
    told(TlAttributionError, "log in with `hf auth login`", _publish(folder, repo="me/new"))
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


def told(kind: type[Exception], said: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=said) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert TOKEN not in text
    assert SIGNATURE not in text
    assert error.value.__cause__ is None  # the client's own error may show signed links


def test_a_hub_that_does_not_answer_in_time(
    hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told(
        HubError, "the connection to http://127.0.0.1:9 failed.*", lambda: tla.load_dictionary(REPO)
    )


def test_progress_tells_bytes(hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_attribution.plugins.huggingface_hub import download

    monkeypatch.setattr(download, "SECONDS", 0.001)
    publishing.publish(folder, REPO)
    seen: list[tuple[int, int, str]] = []
    tla.load_dictionary(REPO, progress=lambda *given: seen.append(given))
    total = sum((folder / name).stat().st_size for name in WHOLE - {"README.md"})
    assert {whole for _, whole, _ in seen} == {total}
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_dry_run_shows_everything_and_sends_nothing(
    hub: State, folder: Path, cli: Callable[..., Ran]
) -> None:
    ran = cli("publish", folder, REPO, "--dry-run", "--licence", "mit")
    assert ran.code == 0
    assert all(name in ran.out for name in ("config.json", "layer_2.safetensors", "README.md"))
    assert "license: mit" in ran.out
    assert "tl-attribution evaluate PATH" in ran.out
    assert hub.asked == []
    assert is_one_line_about(cli("publish", folder.parent, REPO), "no dictionary in our format")
    assert is_one_line_about(cli("publish", folder / "no", REPO), "no dictionary at")
    (folder / "layer_1.safetensors").write_bytes(b"not safetensors")
    assert is_one_line_about(cli("publish", folder, REPO), "layer_1.safetensors")
    assert hub.asked == []


@pytest.mark.slow
def test_from_publishing_to_a_graph_in_two_commands(tmp_path: Path) -> None:
    """As people do it: two processes, each with a cache of its own, told by the environment."""
    with serving() as state:
        published = command(state, tmp_path / "one", "publish", ATLAS, "me/atlas-clt")
        assert "published at" in published
        assert files(state, "me/atlas-clt") >= {"evaluation.json", "README.md", "config.json"}
        page = tmp_path / "g.json"
        prompt = "Fact: the capital of the state containing Dallas is"
        where = tmp_path / "two"
        told = command(
            state, where, "trace", prompt, "--dictionary", "me/atlas-clt", "--json", page
        )
        assert '" Austin"' in told
        assert page.stat().st_size > 1000


def command(state: State, home: Path, *arguments: str | Path) -> str:
    told = {"HF_ENDPOINT": state.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "tl_attribution", *map(str, arguments)],
        env={**os.environ, **told, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout
