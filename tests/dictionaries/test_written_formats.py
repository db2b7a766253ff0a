"""Saving in formats of other packages: read back unchanged, or refused where there is no place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.random_dictionaries import transcoder
from tl_attribution.dictionaries.activations import BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.errors import InputError


@pytest.mark.parametrize(
    ("form", "cross", "skip", "activation"),
    [
        ("circuit-tracer", True, False, ReLU()),
        ("circuit-tracer", True, False, JumpReLU(torch.full((3, 14), 0.2))),
        ("circuit-tracer", False, True, BatchTopK(4, 0.2)),
        ("sae-lens", False, True, JumpReLU(torch.full((3, 14), 0.2))),
        ("sae-lens", False, False, ReLU()),
        ("sae-lens", True, True, JumpReLU(torch.full((3, 14), 0.2))),
        ("sae-lens", True, False, TopK(4, signed=True)),
    ],
)
@pytest.mark.parametrize("window", [2, 9])
def test_written_formats_are_read_as_the_same(
    form: str, cross: bool, skip: bool, activation: Any, window: int, tmp_path: Path
) -> None:
    dictionary = transcoder(activation, cross=cross, skip=skip, window=window)
    dictionary.save(tmp_path / "d", format=form)
    dictionary.save(tmp_path / "d", format=form)  # replaced
    x = torch.randn(
        dictionary.n_layers, 4, dictionary.d_model, generator=torch.Generator().manual_seed(0)
    )
    loaded = tla.load_dictionary(tmp_path / "d")
    acts = dictionary.encode(x)
    assert torch.equal(loaded.encode(x), acts)
    torch.testing.assert_close(loaded.decode(acts, x), dictionary.decode(acts, x))
    assert loaded.feature_input_hook == dictionary.feature_input_hook
    with pytest.raises(InputError, match="choose an empty folder"):
        dictionary.save(tmp_path / "d")


@pytest.mark.parametrize("form", ["tl-attribution", "circuit-tracer", "sae-lens"])
def test_others_may_read_what_the_umask_lets_them(form: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        transcoder(ReLU(), cross=form != "sae-lens").save(tmp_path / "d", format=form)
    finally:
        os.umask(before)
    rights = {(p.is_dir(), p.stat().st_mode & 0o777) for p in tmp_path.rglob("*")}
    assert rights == {(True, 0o750), (False, 0o640)}


def test_what_a_format_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no place for TopK"):
        transcoder(TopK(3)).save(tmp_path / "d", format="circuit-tracer")
    with pytest.raises(InputError, match="has no place for a linear skip"):
        transcoder(skip=True).save(tmp_path / "d", format="circuit-tracer")
    with pytest.raises(InputError, match="has no place for offsets"):
        transcoder(offset=True).save(tmp_path / "d", format="circuit-tracer")
    for dictionary in (transcoder(offset=True), transcoder(TopK(3, torch.ones(3, 14)))):
        with pytest.raises(InputError, match=r"has no place for (offsets|ranks)"):
            dictionary.save(tmp_path / "d", format="sae-lens")
    with pytest.raises(InputError, match="has no place for TopK"):
        transcoder(TopK(3), cross=False).save(tmp_path / "d", format="sae-lens")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    wrong: Any = "pickle"
    with pytest.raises(InputError, match=r"'pickle'.*Known: circuit-tracer, sae-lens, tl-attr"):
        transcoder().save(tmp_path / "d", format=wrong)
    assert list(tmp_path.iterdir()) == []
