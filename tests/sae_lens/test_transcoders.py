"""A list of SAELens's transcoders is a dictionary that gives what SAELens gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

import sae_lens

import tl_attribution as tla
from tests.models import D_MODEL, N_LAYERS, VOCAB, bridge, hugging_face
from tests.sae_lens.random_saes import CLASSES, transcoder, transcoders
from tl_attribution.dictionaries.activations import JumpReLU, ReLU
from tl_attribution.dictionaries.per_layer import TranscoderSet
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.hosts.registry import host_for

X = torch.randn(N_LAYERS, 5, D_MODEL, generator=torch.Generator().manual_seed(1))


def assert_same(dictionary: tla.Dictionary, saes: list[Any]) -> None:
    acts = dictionary.encode(X)
    expected = torch.stack([sae.encode(x) for sae, x in zip(saes, X, strict=True)])
    assert 0 < float((expected != 0).float().mean()) < 1
    assert torch.allclose(acts, expected, rtol=1e-5, atol=1e-6)
    written = torch.stack([sae(x) for sae, x in zip(saes, X, strict=True)])
    written = written.detach()
    error = (dictionary.decode(acts, X) - written).abs().max() / written.abs().max()
    assert float(error) <= 1e-5


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_architecture_gives_what_sae_lens_gives(architecture: str) -> None:
    saes = transcoders(architecture)
    dictionary = tla.load_dictionary(saes[::-1])
    assert isinstance(dictionary, TranscoderSet)
    assert_same(dictionary, saes)
    assert (dictionary.feature_input_hook, dictionary.feature_output_hook) == (
        "mlp.hook_in",
        "hook_mlp_out",
    )
    assert dictionary.model_name == "tiny"
    assert isinstance(dictionary.activation, JumpReLU if "jump" in architecture else ReLU)


def test_architectures_may_differ_between_layers() -> None:
    names = ["jumprelu_transcoder", "skip_transcoder", "transcoder"]
    saes = [transcoder(name, layer) for layer, name in enumerate(names)]
    assert_same(tla.load_dictionary(saes), saes)


def test_folded_normalisation_is_what_sae_lens_folded() -> None:
    saes = transcoders(normalize_activations="expected_average_only_in")
    with pytest.raises(InputError, match=r"fold_activation_norm_scaling_factor"):
        tla.load_dictionary(saes)
    for sae in saes:
        sae.fold_activation_norm_scaling_factor(1.7)
    assert_same(tla.load_dictionary(saes), saes)


def test_the_weights_are_copied_and_converted() -> None:
    saes = transcoders("jumprelu_skip_transcoder")
    dictionary = tla.load_dictionary(saes, dtype=torch.float64, feature_input_hook="hook_mlp_in")
    assert isinstance(dictionary, TranscoderSet)
    assert dictionary.feature_input_hook == "hook_mlp_in"
    before = dictionary.encode(X)
    assert dictionary.layers[0].W_enc.dtype == torch.float64
    for sae in saes:
        sae.fold_W_dec_norm()
    assert torch.equal(dictionary.encode(X), before)


def test_saving_gives_the_native_format(tmp_path: Any) -> None:
    dictionary = tla.load_dictionary(transcoders("jumprelu_skip_transcoder"))
    dictionary.save(tmp_path / "d")
    assert torch.equal(tla.load_dictionary(tmp_path / "d").encode(X), dictionary.encode(X))


GEMMA_SCOPE_2 = {
    "hook_name": "blocks.{}.hook_mlp_in",
    "hf_hook_name": "model.layers.{}.pre_feedforward_layernorm.output",
    "hf_hook_name_out": "model.layers.{}.post_feedforward_layernorm.output",
}


@pytest.mark.hosts
def test_gemma_scope_2_reads_what_its_hugging_face_name_says() -> None:
    saes = [
        transcoder(layer=i, model_name=None, **{k: v.format(i) for k, v in GEMMA_SCOPE_2.items()})
        for i in range(N_LAYERS)
    ]
    dictionary = tla.load_dictionary(saes)
    seen = {}
    hf = hugging_face("gemma3")
    for i, layer in enumerate(hf.model.layers):
        layer.pre_feedforward_layernorm.register_forward_hook(
            lambda _m, _x, out, i=i: seen.__setitem__(f"read {i}", out[0].detach())
        )
        layer.post_feedforward_layernorm.register_forward_hook(
            lambda _m, _x, out, i=i: seen.__setitem__(f"written {i}", out[0].detach())
        )
    ids = torch.randint(3, VOCAB, (1, 6), generator=torch.Generator().manual_seed(0))
    hf(ids)
    host = host_for(bridge("gemma3"))
    sites = (
        host.read_site(dictionary.feature_input_hook),
        host.write_site(dictionary.feature_output_hook),
    )
    read, written = host.read_mlps(ids, *sites)
    for i in range(N_LAYERS):
        assert torch.allclose(read[0, :, i], seen[f"read {i}"], atol=1e-5)
        assert torch.allclose(written[0, :, i], seen[f"written {i}"], atol=1e-5)
    graph = tla.attribute(bridge("gemma3"), ids[0], dictionary)
    assert graph.residual() < 1e-4


def _autoencoder() -> Any:
    return sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D_MODEL, d_sae=8))


BROKEN: dict[str, tuple[Any, type[Exception], str]] = {
    "a missing layer": (
        lambda saes: [saes[0], saes[2]],
        InputError,
        "no transcoder for layer 1 .found 2 layers, the last one 2",
    ),
    "a layer twice": (lambda saes: [*saes, saes[1]], InputError, "two transcoders for layer 1"),
    "another width": (
        lambda saes: [*saes[:2], transcoder(layer=2, d_model=16)],
        MismatchError,
        r"\[features, d_model\] the same: layer 0 has \[14, 32\], layer 2 has \[14, 16\]",
    ),
    "another hook": (
        lambda saes: [*saes[:2], transcoder(layer=2, hook_name="blocks.2.hook_mlp_in")],
        MismatchError,
        "read at the same: layer 0 has mlp.hook_in, layer 2 has hook_mlp_in",
    ),
    "another model": (
        lambda saes: [*saes[:2], transcoder(layer=2, model_name="other")],
        MismatchError,
        "of the model the same: layer 0 has tiny, layer 2 has other",
    ),
    "an autoencoder": (
        lambda saes: [*saes, _autoencoder()],
        InputError,
        "the SAE at unnamed hook is a standard; .* one of transcoder, skip_transcoder",
    ),
    "something else": (lambda saes: [*saes, "w"], InputError, "got a str"),
    "a layer norm": (
        lambda saes: transcoders(normalize_activations="layer_norm"),
        InputError,
        "has normalize_activations that no dictionary can hold",
    ),
    "a whitening": (
        lambda saes: transcoders(normalize_activations="covariance_whitening"),
        InputError,
        "fold_activation_whitening",
    ),
    "another output": (lambda saes: transcoders(d_out=8), InputError, "has d_out that no"),
    "a head": (
        lambda saes: transcoders(hook_head_index=1),
        InputError,
        "has hook_head_index that no",
    ),
    "no input hook": (lambda saes: transcoders(hook_name=None), InputError, "has no hook_name,"),
    "no output hook": (
        lambda saes: transcoders(hook_name_out=None),
        InputError,
        "has no hook_name_out",
    ),
    "an odd hook": (
        lambda saes: transcoders(hook_name="model.layers.2.mlp"),
        InputError,
        r"expected a hook of a block.*got 'model.layers.2.mlp'",
    ),
    "two layers in one": (
        lambda saes: [transcoder(hook_name_out="blocks.1.hook_mlp_out")],
        InputError,
        "reads at layer 0 but writes at layer 1",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_lists_that_are_no_dictionary_say_why(what: str) -> None:
    change, kind, message = BROKEN[what]
    with pytest.raises(kind, match=message) as raised:
        tla.load_dictionary(change(transcoders()))
    assert "\n" not in str(raised.value)


def test_a_hook_that_is_missing_can_be_given() -> None:
    saes = transcoders(hook_name_out=None)
    dictionary = tla.load_dictionary(saes, feature_output_hook="hook_mlp_out")
    assert_same(dictionary, saes)


@pytest.mark.parametrize("source", [[], [1, 2], 3.0, None])
def test_other_objects_are_no_source(source: Any) -> None:
    with pytest.raises(InputError, match="a dictionary cannot be loaded from"):
        tla.load_dictionary(source)
