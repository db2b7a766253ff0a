"""What a save replaces and what it keeps, also when it is killed or not the only one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tl_attribution as tla
from tests.dictionaries.small import X, small
from tests.random_dictionaries import transcoder
from tl_attribution.dictionaries.activations import ReLU
from tl_attribution.dictionaries.formats import writing
from tl_attribution.errors import FormatError, InputError

FORMATS = ("tl-attribution", "circuit-tracer", "sae-lens")
COMPANIONS = {
    "README.md": "the card",
    "evaluation.json": "{}",
    ".git/HEAD": "ref: refs/heads/main",
    "thesis/chapter.tex": "years of work",
}


def _put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _texts(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in COMPANIONS}


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cross", [True, False])
def test_saving_again_keeps_what_lies_beside_the_dictionary(
    form: str, cross: bool, tmp_path: Path
) -> None:
    first, second = (transcoder(ReLU(), cross=cross, seed=seed) for seed in (1, 2))
    first.save(tmp_path / "d", format=form)
    before = _names(tmp_path / "d")
    _put(tmp_path / "d", COMPANIONS)
    second.save(tmp_path / "d", format=form)
    assert _texts(tmp_path / "d") == COMPANIONS
    assert _names(tmp_path / "d") == before | set(COMPANIONS)
    weights = tla.load_dictionary(tmp_path / "d").layers[0].W_enc
    assert torch.equal(weights, second.layers[0].W_enc)


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_a_larger_dictionary_do_not_stay(form: str, tmp_path: Path) -> None:
    large = transcoder(ReLU(), cross=False)
    few = tla.TranscoderSet(large.layers[:1], ReLU(), feature_input_hook="mlp.hook_in")
    large.save(tmp_path / "d", format=form)
    few.save(tmp_path / "d", format=form)
    few.save(tmp_path / "fresh", format=form)
    assert _names(tmp_path / "d") == _names(tmp_path / "fresh")
    assert tla.load_dictionary(tmp_path / "d").n_layers == 1


def _saes(folder: Path) -> None:
    """A person's own, as SAELens writes them."""
    for i in range(2):
        into = folder / f"layer_{i}"
        into.mkdir(parents=True)
        save_file({"W_enc": torch.ones(2, 3)}, into / "sae_weights.safetensors")
        (into / "cfg.json").write_text('{"architecture": "transcoder"}')


def _layer(folder: Path) -> None:
    folder.mkdir()
    save_file({"W_enc": torch.ones(2, 3)}, folder / "layer_0.safetensors")


def _config(folder: Path) -> None:
    _put(folder, {"config.yaml": "transcoders: []", **COMPANIONS})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("theirs", [_saes, _layer, _config])
def test_a_folder_of_others_is_refused_unless_asked_to_overwrite(
    theirs: Callable[[Path], None], form: str, tmp_path: Path
) -> None:
    folder = tmp_path / "d"
    theirs(folder)
    before = {name: (folder / name).read_bytes() for name in _names(folder)}
    with pytest.raises(InputError, match="choose an empty folder, or give overwrite=True"):
        transcoder(ReLU(), cross=False).save(folder, format=form)
    assert {name: (folder / name).read_bytes() for name in _names(folder)} == before


@pytest.mark.parametrize("form", FORMATS)
def test_overwriting_keeps_every_file_of_another_name(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    _put(folder, {**COMPANIONS, "layer_0/notes.txt": "mine"})
    transcoder(ReLU(), cross=False).save(folder, format=form, overwrite=True)
    assert _texts(folder) == COMPANIONS
    assert (folder / "layer_0" / "notes.txt").read_text() == "mine"
    assert tla.load_dictionary(folder).n_layers == 3
    tla.TranscoderSet(
        transcoder(cross=False).layers[1:], ReLU(), feature_input_hook="mlp.hook_in"
    ).save(folder, format=form)
    assert tla.load_dictionary(folder).n_layers == 2
    assert (folder / "layer_0" / "notes.txt").read_text() == "mine"


def test_overwriting_never_leaves_a_mixture_of_two_dictionaries(tmp_path: Path) -> None:
    _saes(tmp_path / "d")
    own = transcoder(ReLU(), cross=False)
    one = tla.TranscoderSet(own.layers[:1], ReLU(), feature_input_hook="mlp.hook_in")
    with pytest.raises(InputError, match=r"layer_1/cfg\.json.* read as a part"):
        one.save(tmp_path / "d", format="sae-lens", overwrite=True)
    assert load_file(tmp_path / "d" / "layer_0" / "sae_weights.safetensors").keys() == {"W_enc"}


def test_a_file_in_the_way_of_a_larger_dictionary_is_refused(tmp_path: Path) -> None:
    own = transcoder(ReLU(), cross=False)
    one = tla.TranscoderSet(own.layers[:1], ReLU(), feature_input_hook="mlp.hook_in")
    one.save(tmp_path / "d")
    (tmp_path / "d" / "layer_1.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"layer_1\.safetensors, not written by a save"):
        own.save(tmp_path / "d")
    assert (tmp_path / "d" / "layer_1.safetensors").read_bytes() == b"mine"
    assert tla.load_dictionary(tmp_path / "d").n_layers == 1


def test_a_linked_folder_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "layer_0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"layer_0, not written by a save"):
        transcoder(ReLU(), cross=False).save(tmp_path / "d", format="sae-lens", overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_may_itself_be_a_link_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "disk")
    small().save(tmp_path / "d")
    small(1).save(tmp_path / "d")
    assert (tmp_path / "d").is_symlink()
    assert torch.equal(tla.load_dictionary(tmp_path / "disk").encode(X), small(1).encode(X))


def test_a_dictionary_is_saved_over_itself(tmp_path: Path) -> None:
    small().save(tmp_path / "d")
    tla.load_dictionary(tmp_path / "d").save(tmp_path / "d")
    assert torch.equal(tla.load_dictionary(tmp_path / "d").encode(X), small().encode(X))


@pytest.mark.parametrize(
    "names",
    [["../thesis.tex"], ["thesis.tex"], ["layer_0/cfg.json"], [["config.json"]], 7],
)
def test_a_journal_that_came_from_elsewhere_removes_nothing(names: object, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    small().save(folder)
    _put(tmp_path, {"thesis.tex": "work", "d/thesis.tex": "work", "elsewhere/cfg.json": "{}"})
    (folder / "layer_0").symlink_to(tmp_path / "elsewhere")
    journal = {"remove": names, "write": []}
    _put(folder / writing.STAGING, {"journal.json": json.dumps(journal)})
    with pytest.raises(FormatError, match="is not the journal of a save"):
        tla.load_dictionary(folder)
    for name in ("thesis.tex", "d/thesis.tex", "elsewhere/cfg.json", "d/config.json"):
        assert (tmp_path / name).is_file()


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.dictionaries.killed_saves", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("what", ["again", "first"])
def test_a_save_killed_at_any_step_leaves_the_old_the_new_or_a_refusal(
    what: str, form: str, tmp_path: Path
) -> None:
    _run(what, str(tmp_path), form)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_eight_savers_at_once_leave_one_dictionary_and_nothing_else(
    form: str, tmp_path: Path
) -> None:
    _run("at-once", str(tmp_path), form)
