"""A CLT as an SAE of SAELens: the same numbers, through SAELens's own loaders and files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

from sae_lens import SAE, registry
from sae_lens.loading import pretrained_sae_loaders

import tl_attribution as tla
from tests.models import D_MODEL, N_LAYERS
from tests.random_dictionaries import FEATURES, transcoder
from tl_attribution.dictionaries.activations import BatchTopK, JumpReLU, TopK
from tl_attribution.dictionaries.formats import sae_lens_clt
from tl_attribution.errors import FormatError, InputError, MismatchError
from tl_attribution.plugin_loading import PluginWarning
from tl_attribution.plugins.sae_lens import cross_layer, install, to_sae_lens

X = torch.randn(N_LAYERS, 5, D_MODEL, generator=torch.Generator().manual_seed(1))
JUMP = JumpReLU(torch.rand(N_LAYERS, FEATURES, generator=torch.Generator().manual_seed(2)) * 0.4)
KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "jumprelu": {"activation": JUMP},
    "topk": {"activation": TopK(3)},
    "batchtopk": {"activation": BatchTopK(3, 0.25)},
    "window": {"window": 2},
    "skip": {"skip": True, "activation": JUMP},
}


def clt(kind: str = "skip") -> tla.CrossLayerTranscoder:
    dictionary = transcoder(read="hook_resid_mid", **KINDS[kind])
    dictionary.model_name = "tiny"
    assert isinstance(dictionary, tla.CrossLayerTranscoder)
    return dictionary


def assert_same(dictionary: tla.Dictionary, sae: SAE[Any]) -> None:
    acts = dictionary.encode(X)
    batched = X[:, None].expand(-1, 2, -1, -1)
    assert torch.allclose(sae.encode(X), acts, rtol=1e-5, atol=1e-6)
    assert torch.allclose(sae.encode(batched)[:, 1], acts, rtol=1e-5, atol=1e-6)
    expected = dictionary.decode(acts, X)
    error = (sae(batched).detach()[:, 1] - expected).abs().max() / expected.abs().max()
    assert float(error) <= 1e-5


def assert_equal(one: Any, other: Any) -> None:
    assert repr(one) == repr(other)
    assert one.model_name == other.model_name
    for layer, other_layer in zip(one.layers, other.layers, strict=True):
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip"):
            tensor, other_tensor = getattr(layer, name), getattr(other_layer, name)
            assert (tensor is None) == (other_tensor is None)
            assert tensor is None or torch.equal(tensor, other_tensor), name
    # Rounding may go with a tensor's layout, which a file does not keep.
    acts = one.encode(X)
    torch.testing.assert_close(other.encode(X), acts)
    torch.testing.assert_close(one.decode(acts, X), other.decode(acts, X))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sae_gives_what_the_dictionary_gives(kind: str) -> None:
    dictionary = clt(kind)
    sae = to_sae_lens(dictionary)
    assert_same(dictionary, sae)
    assert_equal(tla.load_dictionary(sae), dictionary)
    acts = sae.encode(X)
    without_skip = transcoder(**{**KINDS[kind], "skip": False})
    if kind != "skip":
        assert torch.allclose(sae.decode(acts), without_skip.decode(acts), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_read_by_sae_lens_and_by_us(kind: str, tmp_path: Path) -> None:
    dictionary = clt(kind)
    sae = to_sae_lens(dictionary)
    weights, config = sae.save_model(tmp_path / "d")
    assert sorted(tmp_path.rglob("*.*")) == sorted([config, weights])
    loaded = SAE.load_from_disk(tmp_path / "d")
    assert type(loaded) is cross_layer.CrossLayerTranscoderSAE
    assert_same(dictionary, loaded)
    assert loaded.cfg.to_dict() == sae.cfg.to_dict()
    assert_equal(tla.load_dictionary(tmp_path / "d"), dictionary)
    half = SAE.load_from_disk(tmp_path / "d", dtype="bfloat16")
    assert {t.dtype for t in half.state_dict().values()} == {torch.bfloat16}
    whole = tla.load_dictionary(half, dtype=torch.float32)
    assert isinstance(whole, tla.CrossLayerTranscoder)
    assert whole.layers[0].W_enc.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_save_without_sae_lens_is_what_it_saves(kind: str, tmp_path: Path) -> None:
    dictionary = clt(kind)
    dictionary.save(tmp_path / "ours", format="sae-lens")
    loaded = SAE.load_from_disk(tmp_path / "ours")
    assert type(loaded) is cross_layer.CrossLayerTranscoderSAE
    assert_same(dictionary, loaded)
    assert loaded.cfg.metadata.model_name == "tiny"
    to_sae_lens(dictionary).save_model(tmp_path / "theirs")
    configs = [json.loads((tmp_path / d / "cfg.json").read_text()) for d in ("ours", "theirs")]
    for config in configs:
        del config["metadata"]
    assert configs[0] == configs[1]
    tensors = [load_file(tmp_path / d / sae_lens_clt.WEIGHTS) for d in ("ours", "theirs")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_what_it_has_no_place_for_is_refused() -> None:
    """Rather than dropped."""
    for dictionary in (
        transcoder(offset=True),
        transcoder(TopK(3, torch.ones(N_LAYERS, FEATURES))),
    ):
        with pytest.raises(InputError, match=r"has no place for (offsets|ranks)"):
            to_sae_lens(dictionary)


def test_converting_is_enough_to_load_the_plugin() -> None:
    code = """
import warnings; warnings.simplefilter("error", RuntimeWarning)
import tl_attribution as tla
from tl_attribution.plugins.sae_lens import to_sae_lens
print(to_sae_lens(tla.load_dictionary("atlas")).cfg.architecture())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "cross_layer_transcoder", done.stderr


def test_reading_needs_no_sae_lens(tmp_path: Path) -> None:
    dictionary = clt()
    to_sae_lens(dictionary).save_model(tmp_path)
    code = f"""
import sys, tl_attribution as tla
d = tla.load_dictionary({str(tmp_path)!r})
assert "sae_lens" not in sys.modules
print(d, d.model_name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{dictionary!r} tiny", done.stderr


def test_from_pretrained_returns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_sae_lens(clt()).save_model(tmp_path / "someone" / "clts" / "tiny" / "all")

    def download(repo_id: str, filename: str, **_: Any) -> str:
        if not (file := tmp_path / repo_id / filename).exists():
            raise pretrained_sae_loaders.EntryNotFoundError(filename)
        return str(file)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", download)
    sae = SAE.from_pretrained("someone/clts", "tiny/all")
    assert type(sae) is cross_layer.CrossLayerTranscoderSAE
    assert_same(clt(), sae)
    assert sae.cfg.metadata.model_name == "tiny"


def test_configuration_and_hooks_are_as_sae_lens_has_them() -> None:
    sae = to_sae_lens(clt("jumprelu"))
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.n_layers) == (D_MODEL, FEATURES, N_LAYERS)
    assert sae.cfg.architecture() == "cross_layer_transcoder"
    assert tuple(sae.W_enc.shape) == (N_LAYERS, D_MODEL, FEATURES)
    assert [tuple(w.shape[:2]) for w in sae.W_dec] == [(FEATURES, 3), (FEATURES, 2), (FEATURES, 1)]
    assert sae.get_name() == f"clt_tiny_hook_resid_mid_{FEATURES}"
    _, cache = sae.run_with_cache(X)
    acts = sae.encode(X)
    assert torch.equal(cache["hook_sae_acts_post"], acts)
    assert torch.equal(
        torch.where(cache["hook_sae_acts_pre"] > sae.threshold[:, None], 1, 0), acts.sign().int()
    )
    silenced = sae.run_with_hooks(X, fwd_hooks=[("hook_sae_acts_post", lambda t, hook: t * 0)])
    assert torch.allclose(silenced, sae.b_dec[:, None].expand_as(X))


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_folding_decoder_norms_changes_no_output(kind: str) -> None:
    sae = to_sae_lens(clt(kind))
    before, acts = sae(X), sae.encode(X)
    sae.fold_W_dec_norm()
    assert torch.allclose(sae(X), before, atol=1e-5)
    norms = sae.encode(X)[acts > 0] / acts[acts > 0]
    assert not torch.allclose(norms, torch.ones(()))
    for weights in sae.W_dec:
        assert torch.allclose(weights.flatten(1).norm(dim=1), torch.ones(FEATURES))
    with pytest.raises(InputError, match="cannot be folded with topk"):
        to_sae_lens(clt("topk")).fold_W_dec_norm()


def test_what_is_attached_to_one_hook_is_refused_and_told_what_to_do() -> None:
    sae = copy.deepcopy(to_sae_lens(clt()))
    with pytest.raises(InputError, match=r"at_each_layer.model.* or tla\.replacement_logits"):
        _ = sae.cfg.metadata.hook_name
    assert sae.cfg.metadata.hook_name_out is None


def test_wrong_shapes_and_options() -> None:
    sae = to_sae_lens(clt())
    with pytest.raises(MismatchError, match=r"x is \(5, 32\); .* \[layer=3, …, d_in=32\]"):
        sae.encode(X[0])
    with pytest.raises(MismatchError, match=r"feature_acts is .* \[layer=3, …, d_sae=14\]"):
        sae.decode(X)
    with pytest.raises(InputError, match="nothing to fold"):
        sae.fold_activation_norm_scaling_factor(2.0)
    wrongs: list[dict[str, Any]] = [
        {"normalize_activations": "layer_norm"},
        {"apply_b_dec_to_input": True},
    ]
    for wrong in wrongs:
        with pytest.raises(InputError, match="reads activations as they are"):
            cross_layer.CrossLayerTranscoderConfig(d_in=3, d_sae=3, **wrong)
    with pytest.raises(InputError, match="window must be between 1 and the 2 layers, got 3"):
        cross_layer.CrossLayerTranscoderConfig(d_in=3, d_sae=3, n_layers=2, window=3)
    with pytest.raises(InputError, match="got TranscoderSet"):
        to_sae_lens(transcoder(cross=False))


def _damage(folder: Path, how: str) -> None:
    config, weights = folder / sae_lens_clt.CONFIG, folder / sae_lens_clt.WEIGHTS
    if how == "missing":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif how == "tensor":
        tensors = load_file(weights)
        tensors["W_dec"] = tensors.pop("W_dec.1")
        save_file(tensors, weights)
    elif how == "layers":
        tensors = load_file(weights)
        save_file({**tensors, "b_enc": tensors["b_enc"][:1].clone()}, weights)
    else:
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, how: "?"}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "sae_weights.safetensors is missing"),
        ("truncated", "truncated or corrupt"),
        ("tensor", r"lacks \['W_dec.1'\], holds unknown \['W_dec'\]"),
        ("layers", r"3 layers in \['b_enc'\]"),
        ("n_layers", "lacks or misstates n_layers"),
        ("activation", "lacks or misstates activation"),
    ],
)
def test_damaged_folders_say_what_is_wrong(how: str, message: str, tmp_path: Path) -> None:
    to_sae_lens(clt()).save_model(tmp_path)
    _damage(tmp_path, how)
    with pytest.raises(FormatError, match=message):
        tla.load_dictionary(tmp_path)


def test_registering_again_changes_nothing_and_takes_nothing_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sae_lens

    before = dict(registry.SAE_CLASS_REGISTRY)
    assert before["cross_layer_transcoder"][0] is cross_layer.CrossLayerTranscoderSAE
    install(sae_lens)
    assert before == registry.SAE_CLASS_REGISTRY
    other = registry.SAE_CLASS_REGISTRY["transcoder"]
    monkeypatch.setitem(registry.SAE_CLASS_REGISTRY, "cross_layer_transcoder", other)
    with pytest.warns(PluginWarning, match="is sae_lens.saes.transcoder.Transcoder's already"):
        install(sae_lens)
    assert registry.SAE_CLASS_REGISTRY["cross_layer_transcoder"] is other
