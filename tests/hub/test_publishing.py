"""Dictionaries to the Hub, over real HTTP with the real client, against a Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants

import tl_attribution as tla
from tests.cli.outcome import Outcome, is_one_line_about
from tests.dictionaries.small import X, small
from tests.hub.checks import REPO, WHOLE, client_warns, files, load, publish, raises_line
from tests.hub.server import SIGNATURE, TOKEN, Repo, State, serving
from tl_attribution.atlas import corpus
from tl_attribution.dictionaries import publishing
from tl_attribution.errors import HubError, InputError, NotFoundError, TlAttributionError
from tl_attribution.plugins.huggingface_hub import publish as publish_module

pytestmark = client_warns
NEWER = int(huggingface_hub.__version__.partition(".")[0]) >= 1
ATLAS = Path(corpus.__file__).parent / "dictionary"


def test_what_is_published_is_what_others_load(hub: State, folder: Path) -> None:
    done = publishing.publish(folder, REPO, license="mit", tag="v1")
    assert files(hub) == WHOLE
    assert done.address == f"{REPO}@v1"
    assert len(hub.repos[REPO].commits) == 2  # the repository's first, and all of ours
    loaded = tla.load_dictionary(REPO)
    assert torch.equal(loaded.encode(X), small().encode(X))
    assert loaded.model_name == "gpt2"
    for source in (f"{REPO}@v1", f"{REPO}@{done.commit}", f"hf://{REPO}", f"{REPO}@main"):
        assert repr(tla.load_dictionary(source)) == repr(loaded)


def test_an_upload_that_is_cut_publishes_nothing_and_goes_on(
    hub: State, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.hang_up("PUT .*", after=500, times=99)
    with pytest.raises(
        HubError,
        match=rf"cannot publish to {REPO} \(the new repository is empty so far\): the conn.*fail",
    ) as error:
        publishing.publish(folder, REPO)
    assert SIGNATURE not in str(error.value)
    assert "Retrying" in caplog.text
    assert SIGNATURE not in caplog.text
    assert files(hub) == set()
    assert len(hub.repos[REPO].commits) == 1
    hub.faults.clear()
    hub.fail("PUT .*", 500)
    with pytest.raises(HubError, match=f"cannot publish to {REPO}: the Hub has trouble"):
        publishing.publish(folder, REPO)
    with pytest.raises(HubError, match="trouble"):
        publishing.publish(folder, REPO, revision="new")
    assert hub.repos[REPO].branches.keys() == {"main"}  # no branch that holds what main does
    assert files(hub) == set()
    hub.faults.clear()
    publishing.publish(folder, REPO)
    assert files(hub) == WHOLE
    hub.requests.clear()
    publishing.publish(folder, REPO, revision="again")
    assert not [line for line in hub.requests if line.startswith("PUT")]  # nothing is sent twice


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
    publishing.publish(folder, REPO, license="mit")
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
    calls: list[Any] = []
    fake = {"load_model": calls.append, "attribute": lambda *arguments: calls.append(arguments[1])}
    exec(code.replace("import tl_attribution as tla", ""), {"tla": _Fake(fake)})
    assert calls == [REPO, "gpt2", "The capital of France is"]


class _Fake:
    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.load_model, self.attribute = functions["load_model"], functions["attribute"]
        self.load_dictionary = functions["load_model"]


def test_a_dry_run_shows_everything_and_sends_nothing(
    hub: State, folder: Path, cli: Callable[..., Outcome]
) -> None:
    ran = cli("publish", folder, REPO, "--dry-run", "--license", "mit")
    assert ran.code == 0
    assert all(name in ran.out for name in ("config.json", "layer_2.safetensors", "README.md"))
    assert "license: mit" in ran.out.splitlines()
    assert "tl-attribution evaluate PATH" in ran.out
    assert hub.requests == []
    assert is_one_line_about(cli("publish", folder.parent, REPO), "not hold a dictionary in our")
    assert is_one_line_about(cli("publish", folder / "no", REPO), "no dictionary at")
    (folder / "layer_1.safetensors").write_bytes(b"not safetensors")
    assert is_one_line_about(cli("publish", folder, REPO), "layer_1.safetensors")
    assert hub.requests == []


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

    raises_line(NotFoundError, "no such path.*no repository me/nothing at", load("me/nothing"))
    raises_line(NotFoundError, "has no such revision", load(f"{REPO}@v2"))
    raises_line(HubError, "is gated. Ask for access at .*/me/gated, then log in", load("me/gated"))
    raises_line(
        HubError, "pytorch_model.bin and no safetensors.*save_pretrained", load("me/pickles")
    )
    raises_line(HubError, "leads out of the repository", load("me/tricks"))
    raises_line(NotFoundError, "not an address on the Hub", load("me/../etc"))
    raises_line(HubError, "has a tag v1 already", publish(folder, tag="v1"))
    raises_line(HubError, "is public, and --private would not", publish(folder, private=True))
    raises_line(HubError, "your token may not do that", publish(folder, repo="somebody-else/x"))
    raises_line(InputError, "repository as ORGANIZATION/NAME", publish(folder, repo="just-a-name"))
    raises_line(InputError, "repository as ORGANIZATION/NAME", publish(folder, repo="me/x/y"))
    refused = {409: "changed at the same time", 412: "changed at the same time"}
    refused |= {429: "too many requests", 500: "has trouble", 403: "may not do that"}
    for status, message in refused.items():
        hub.fail("POST .*/commit/", status)
        (folder / "README.md").write_text(f"a change {status}")
        raises_line(HubError, message, publish(folder))
        hub.faults.clear()
    hub.fail("GET /api/models", 401, "Invalid credentials in Authorization header")
    raises_line(HubError, "does not know your token.*hf auth login", load(REPO))
    hub.faults.clear()
    publishing.publish(folder, "me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    raises_line(
        NotFoundError, "private and you are not logged in.*`hf auth login`", load("me/secret")
    )
    raises_line(TlAttributionError, "log in with `hf auth login`", publish(folder, repo="me/new"))
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


def test_a_hub_that_does_not_answer_in_time(
    hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes a request and says nothing, and nobody at all."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(publish_module, "TIMEOUT", 0.3)
    hub.hang("GET /api/models")
    raises_line(HubError, r"connection to .* failed.*; and the cache .* does not hold", load(REPO))
    raises_line(HubError, r"connection to .* failed.*try again", publish(folder))
    hub.faults.clear()
    if NEWER:  # older clients wait for ever there
        hub.hang("POST .*/(commit|preupload)/")
        raises_line(
            HubError, r"empty so far\): the connection to .* failed.*try again", publish(folder)
        )
        hub.faults.clear()
    publishing.publish(folder, REPO)
    tla.load_dictionary(REPO)
    hub.hang("GET /api/models")
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))  # from the cache
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    raises_line(HubError, "the connection to http://127.0.0.1:9 failed.*", load("me/other"))


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
        printed = command(
            state, where, "trace", prompt, "--dictionary", "me/atlas-clt", "--json", page
        )
        assert '" Austin"' in printed
        assert page.stat().st_size > 1000


def command(state: State, home: Path, *arguments: str | Path) -> str:
    environment = {"HF_ENDPOINT": state.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "tl_attribution", *map(str, arguments)],
        env={**os.environ, **environment, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout
