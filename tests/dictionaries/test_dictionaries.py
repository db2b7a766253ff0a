"""Encode, decode and activations against what their definitions say; files against memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tl_attribution as tla
from tests.models import D_MODEL, N_LAYERS
from tests.random_dictionaries import FEATURES, transcoder
from tl_attribution.dictionaries.activations import BatchTopK, JumpReLU, ReLU, TopK
from tl_attribution.dictionaries.formats import writing
from tl_attribution.dictionaries.neurons import MlpWeights, Neurons
from tl_attribution.dictionaries.transcoder import LayerWeights, Transcoder
from tl_attribution.errors import FormatError, InputError, MismatchError, NotFoundError

THRESHOLD = torch.full((N_LAYERS, FEATURES), 0.25)
ACTIVATIONS = [ReLU(), JumpReLU(THRESHOLD), TopK(3), BatchTopK(3, 0.25)]
X = torch.randn(N_LAYERS, 5, D_MODEL, generator=torch.Generator().manual_seed(1))


def test_activations_on_known_numbers() -> None:
    pre = torch.tensor([[3.0, -1.0, 0.2, 1.0]])
    jump = JumpReLU(torch.tensor([[0.0, 0.0, 0.5, 2.0]]))
    assert ReLU()(pre, 0).tolist() == [[3.0, 0.0, pre[0, 2].item(), 1.0]]
    assert jump(pre, 0).tolist() == [[3.0, 0.0, 0.0, 0.0]]
    assert TopK(2)(pre, 0).tolist() == [[3.0, 0.0, 0.0, 1.0]]
    assert TopK(4)(pre, 0)[0, 1] == 0.0
    assert BatchTopK(1, 0.9)(pre, 0).tolist() == [[3.0, 0.0, 0.0, 1.0]]


@given(st.integers(1, FEATURES), st.integers(0, 1000))
def test_topk_keeps_the_k_largest_that_are_positive(k: int, seed: int) -> None:
    pre = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(seed))
    out = TopK(k)(pre, 0)
    for row, kept in zip(pre, out, strict=True):
        expected = [v for v in sorted(row.tolist(), reverse=True)[:k] if v > 0]
        assert sorted(kept[kept != 0].tolist(), reverse=True) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("cross", [True, False])
def test_decode_is_the_sum_the_definition_writes_out(activation: Any, cross: bool) -> None:
    dictionary = transcoder(activation, cross=cross, skip=not cross)
    acts = dictionary.encode(X)
    expected = torch.zeros_like(X)
    for layer, weights in enumerate(dictionary.layers):
        pre = torch.einsum("pd,fd->pf", X[layer], weights.W_enc) + weights.b_enc
        assert torch.allclose(acts[layer], activation(pre, layer), atol=1e-6)
        for k in range(weights.W_dec.shape[1]):
            expected[layer + k] += torch.einsum("pf,fd->pd", acts[layer], weights.W_dec[:, k])
        expected[layer] += weights.b_dec
        if weights.W_skip is not None:
            expected[layer] += torch.einsum("pd,od->po", X[layer], weights.W_skip)
    assert torch.allclose(dictionary.decode(acts, X), expected, atol=1e-5)


def test_neurons_are_the_mlp() -> None:
    generator = torch.Generator().manual_seed(3)
    w = {n: torch.randn(6, 9, generator=generator) for n in ("W_in", "W_gate")}
    biases = {"b_in": torch.randn(9, generator=generator), "b_out": torch.ones(6)}
    out = torch.randn(9, 6, generator=generator)
    x = torch.randn(1, 4, 6, generator=generator)
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    gated = Neurons([MlpWeights(**w, **biases, W_out=out, activation="silu")], **hooks)
    gate = torch.nn.functional.silu(x[0] @ w["W_gate"])
    expected = (gate * (x[0] @ w["W_in"] + biases["b_in"])) @ out + 1
    assert torch.allclose(gated.decode(gated.encode(x))[0], expected, atol=1e-5)
    rows = gated.reads(0, x[0], torch.tensor([2, 3]), torch.tensor([4, 8]))
    frozen = (rows.vectors * x[0][[2, 3]]).sum(1) + rows.bias
    assert torch.allclose(frozen, gated.encode(x)[0, [2, 3], [4, 8]], atol=1e-5)
    with pytest.raises(InputError, match="not saved"):
        gated.save("anywhere")


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("options", [{}, {"cross": False, "skip": True}, {"window": 2}])
def test_save_and_load_give_the_same_dictionary(
    activation: Any, options: dict, tmp_path: Path
) -> None:
    dictionary = transcoder(activation, **options)
    dictionary.model_name = "tiny"
    dictionary.save(tmp_path / "d")
    loaded = tla.load_dictionary(tmp_path / "d")
    assert isinstance(loaded, Transcoder)
    assert type(loaded) is type(dictionary)
    assert repr(loaded) == repr(dictionary)
    assert loaded.model_name == "tiny"
    acts = dictionary.encode(X)
    assert torch.equal(loaded.encode(X), acts)
    assert torch.equal(loaded.decode(acts, X), dictionary.decode(acts, X))
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_saving_again_replaces_and_a_failed_save_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "d"
    transcoder(seed=1).save(folder)
    transcoder(seed=2).save(folder)
    kept = tla.load_dictionary(folder).encode(X)
    assert torch.equal(kept, transcoder(seed=2).encode(X))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        transcoder(seed=3).save(folder)
    assert torch.equal(tla.load_dictionary(folder).encode(X), kept)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_load_can_convert_and_correct_the_hooks(tmp_path: Path) -> None:
    transcoder().save(tmp_path / "d")
    loaded = tla.load_dictionary(
        tmp_path / "d", dtype=torch.float16, feature_input_hook="hook_resid_mid"
    )
    assert isinstance(loaded, Transcoder)
    assert loaded.layers[0].W_enc.dtype == torch.float16
    assert loaded.feature_input_hook == "hook_resid_mid"
    assert torch.allclose(loaded.encode(X), transcoder().encode(X), atol=0.02)


def test_a_folder_that_is_not_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="choose an empty folder"):
        transcoder().save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def _damage(folder: Path, how: str) -> None:
    layer, config = folder / "layer_1.safetensors", folder / "config.json"
    if how == "missing layer":
        layer.unlink()
    elif how == "truncated layer":
        layer.write_bytes(layer.read_bytes()[:-50])
    elif how == "lacks a tensor":
        tensors = load_file(layer)
        tensors.pop("b_dec")
        save_file(tensors, layer)
    elif how == "wrong shape":
        tensors = load_file(layer)
        tensors["W_dec"] = tensors["W_dec"][:, :, :-1].contiguous()
        save_file(tensors, layer)
    else:
        said = json.loads(config.read_text())
        said[how] = {"version": 99, "kind": "autoencoder", "n_features": 7, "activation": {}}[how]
        config.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing layer", "layer_1.safetensors is missing"),
        ("truncated layer", "layer_1.safetensors is truncated or corrupt"),
        ("lacks a tensor", r"lacks \['b_dec'\]"),
        ("wrong shape", r"layer_1.safetensors: W_dec to layer \+0 is \(14, 31\)"),
        ("version", "update tl-attribution"),
        ("kind", "kind is one of"),
        ("n_features", "config.json says n_features=7"),
        ("activation", "activation {} is unknown"),
    ],
)
def test_damaged_folders_say_what_is_wrong(how: str, message: str, tmp_path: Path) -> None:
    transcoder().save(tmp_path / "d")
    _damage(tmp_path / "d", how)
    with pytest.raises((FormatError, MismatchError), match=message):
        tla.load_dictionary(tmp_path / "d")


def test_sources_that_are_no_dictionary(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'neurons'"):
        tla.load_dictionary("neuron")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"found: readme\.txt"):
        tla.load_dictionary(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="can run code"):
        tla.load_dictionary(tmp_path)


@pytest.mark.parametrize("name", ["W_enc", "b_enc"])
def test_broken_encoders_are_named_when_used(name: str) -> None:
    dictionary = transcoder()
    getattr(dictionary.layers[1], name).view(FEATURES, -1)[4, 0] = torch.nan
    with pytest.raises(FormatError, match=rf"layer 1: {name} has 1 NaN or infinite values.*\[4"):
        dictionary.encode(X)


@pytest.mark.parametrize("name", ["W_dec", "b_dec", "W_skip"])
def test_broken_decoders_are_named_when_used(name: str) -> None:
    dictionary = transcoder(skip=True)
    getattr(dictionary.layers[2], name).view(-1)[3] = torch.inf
    with pytest.raises(FormatError, match=f"layer 2: {name} has 1 NaN or infinite values"):
        dictionary.decode(dictionary.encode(X), X)


def test_mismatches() -> None:
    with pytest.raises(MismatchError, match=r"reads \[layer=3, position, d_model=32\]"):
        transcoder().encode(X[:2])
    with pytest.raises(MismatchError, match="give decode the input x too"):
        transcoder(skip=True).decode(transcoder().encode(X))
    with pytest.raises(InputError, match="larger than the 14 features"):
        transcoder(TopK(99)).encode(X)
    with pytest.raises(InputError, match="at least 1"):
        TopK(0)
    with pytest.raises(MismatchError, match="thresholds are"):
        transcoder(JumpReLU(torch.zeros(1, FEATURES)))
    layers = list(transcoder(cross=False).layers)
    with pytest.raises(MismatchError, match="layer 0 writes to 1"):
        tla.CrossLayerTranscoder(
            [*layers[:1], transcoder().layers[1]], ReLU(), feature_input_hook="mlp.hook_in"
        )
    with pytest.raises(MismatchError, match="b_enc is"):
        LayerWeights(torch.zeros(3, 2), torch.zeros(4), torch.zeros(3, 1, 2), torch.zeros(2))
