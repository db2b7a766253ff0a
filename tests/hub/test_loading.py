"""Dictionaries from the Hub, over real HTTP with the real client, against a Hub on loopback."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import tl_attribution as tla
from tests.dictionaries.small import X, small
from tests.hub.asking import REPO, WHOLE, client_warns, forget_sessions, load, told
from tests.hub.server import Repo, State
from tl_attribution.dictionaries import publishing, remote
from tl_attribution.errors import HubError

pytestmark = client_warns
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
    forget_sessions()
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set; and the cache in .* does not hold"):
        tla.load_dictionary(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget_sessions()
    loaded = tla.load_dictionary(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
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
    told(
        HubError, r"none of the layouts .*\(found: deep/\).*circuit-tracer: config.yaml", load(REPO)
    )
    sizes = {f"gpt2-tc{i}/sae.safetensors": 9 for i in range(3)}
    settings = {f"gpt2-tc{i}/cfg.json": 9 for i in range(3)}
    at = remote.Address("a/b")
    found = remote.needed({**settings, **sizes, "features/a.safetensors": 9}, at)
    assert found == [*sorted(sizes), *sorted(settings)]
    with pytest.raises(HubError, match="several dictionaries"):
        remote.needed({**sizes, "gpt2-tc1-large/sae.safetensors": 9}, at)


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


def test_a_cut_connection_is_taken_up_where_it_ended(
    hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # what is written to disk at once
    publishing.publish(folder, REPO)
    hub.hang_up("GET .*layer_1", after=1000, times=1)
    with suppress(HubError):  # clients before 1.0 leave it to the next call
        tla.load_dictionary(REPO)
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))
    again = [line for line in hub.asked if "GET" in line and "layer_1" in line]
    assert len(again) == 2
    assert again[1].endswith("bytes=1000-")


def test_after_a_failed_download_only_what_is_missing_is_fetched(hub: State, folder: Path) -> None:
    done = publishing.publish(folder, REPO)
    hub.hang_up("GET .*layer_1", after=1000)
    told(HubError, r"cannot download layer_1.safetensors .*try again", load(REPO))
    hub.fail("GET /api/models", 500)
    told(HubError, "does not hold", load(REPO))
    told(HubError, "holds only a part of", load(f"{REPO}@{done.commit}"))  # nor a smaller one
    hub.faults.clear()
    hub.asked.clear()
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))
    assert not [line for line in hub.asked if "GET" in line and "layer_0" in line]


def test_what_arrives_damaged_is_found_and_removed(hub: State, folder: Path) -> None:
    publishing.publish(folder, REPO)
    right = dict(hub.stored)
    hub.stored.update({oid: data[:-1] + b"!" for oid, data in right.items()})
    with pytest.raises(HubError, match=r"layer_\d.safetensors .*arrived damaged"):
        tla.load_dictionary(REPO)
    hub.stored.update(right)
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))


def test_progress_tells_bytes(hub: State, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_attribution.plugins.huggingface_hub import download

    monkeypatch.setattr(download, "SECONDS", 0.001)
    publishing.publish(folder, REPO)
    seen: list[tuple[int, int, str]] = []
    tla.load_dictionary(REPO, progress=lambda *given: seen.append(given))
    total = sum((folder / name).stat().st_size for name in WHOLE - {"README.md"})
    assert {whole for _, whole, _ in seen} == {total}
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("name", ["layer_1.safetensors", "config.json"])
def test_an_etag_that_is_a_path_reaches_no_file(
    hub: State, folder: Path, tmp_path: Path, exists: bool, name: str
) -> None:
    publishing.publish(folder, REPO)
    thesis = tmp_path / "home" / "thesis.tex"
    thesis.parent.mkdir()
    if exists:
        thesis.write_text("years of work")
    blobs = tmp_path / "cache" / "models--me--tiny-clt" / "blobs"
    for etag in (str(thesis), os.path.relpath(thesis, blobs), "..", "a/b"):
        hub.etags[name] = etag
        told(HubError, "answers with the ETag .*would be a path", load(REPO))
        assert [p.read_text() for p in thesis.parent.iterdir()] == ["years of work"] * exists
        assert not list((tmp_path / "cache").rglob("*thesis*"))
    hub.etags.clear()
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))


def test_a_link_out_of_the_cache_is_neither_followed_nor_is_its_target_removed(
    hub: State, folder: Path, tmp_path: Path
) -> None:
    done = publishing.publish(folder, REPO)
    snapshot = tmp_path / "cache" / "models--me--tiny-clt" / "snapshots" / done.commit
    snapshot.mkdir(parents=True)
    (tmp_path / "thesis.tex").write_text("years of work")
    (snapshot / "layer_1.safetensors").symlink_to(tmp_path / "thesis.tex")
    told(HubError, r"layer_1.safetensors .*was a link out of the cache", load(REPO))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert torch.equal(tla.load_dictionary(REPO).encode(X), small().encode(X))


def test_a_commit_that_is_a_path_is_refused(
    hub: State, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing.publish(folder, REPO)
    repo = hub.repos[REPO]
    oid = repo.branches["main"]
    repo.branches["main"] = "../../../d"
    repo.commits["../../../d"] = repo.commits[oid]
    told(HubError, "names a commit '../../../d', which is not a hash", load(REPO))
    ref = tmp_path / "cache" / "models--me--tiny-clt" / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text("../../../d")
    (ref.parent.parent / "snapshots").mkdir(exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
    told(HubError, "does not hold", load(REPO))
