"""Formats of other packages: what is read, and the errors for what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tl_attribution as tla
from tests.dictionaries.format_files import FEATURES, HOOKS, LAYERS, MAKERS, make
from tests.random_dictionaries import transcoder
from tl_attribution.dictionaries.tensor_files import TensorFile
from tl_attribution.errors import FormatError, InputError, MismatchError


@pytest.mark.parametrize("name", MAKERS)
def test_reads_what_the_format_means(name: str, tmp_path: Path) -> None:
    case = make(name, tmp_path / "d")
    loaded = tla.load_dictionary(tmp_path / "d", **({} if case.hooks else HOOKS))
    torch.testing.assert_close(loaded.encode(case.x), case.acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.decode(case.acts, case.x), case.recon, rtol=1e-5, atol=1e-4)
    hooks = (loaded.feature_input_hook, loaded.feature_output_hook)
    assert hooks == (case.hooks or tuple(HOOKS.values()))
    assert loaded.model_name == case.model_name


@pytest.mark.parametrize("name", MAKERS)
def test_kept_in_our_format_nothing_changes(name: str, tmp_path: Path) -> None:
    case = make(name, tmp_path / "d")
    loaded = tla.load_dictionary(tmp_path / "d", **HOOKS)
    loaded.save(tmp_path / "ours")
    ours = tla.load_dictionary(tmp_path / "ours")
    assert repr(ours) == repr(loaded)
    assert torch.equal(ours.encode(case.x), loaded.encode(case.x))
    torch.testing.assert_close(ours.decode(case.acts, case.x), loaded.decode(case.acts, case.x))


@pytest.mark.parametrize("name", ["circuit-tracer-clt", "sae-lens", "gemma-scope-2-clt", "ours"])
def test_opening_reads_no_matrix_and_using_reads_one_at_a_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "ours":
        transcoder().save(tmp_path / "d")
    else:
        make(name, tmp_path / "d")
    read: list[str] = []
    mapped = TensorFile.mapped

    def recorded(file: TensorFile, tensor: str) -> torch.Tensor:
        read.append(tensor)
        return mapped(file, tensor)

    monkeypatch.setattr(TensorFile, "mapped", recorded)
    loaded = tla.load_dictionary(tmp_path / "d")
    assert not [tensor for tensor in read if tensor.startswith(("W_", "w_"))]
    read.clear()
    loaded.encode_layer(1, torch.zeros(2, loaded.d_model))
    assert len(read) == 1
    rows = loaded.writes(1, torch.tensor([3, 5]), 1)
    assert len(read) == 2
    assert rows.untyped_storage().nbytes() == 2 * loaded.d_model * 4  # a copy of two rows


def test_a_dictionary_that_went_away_is_named(tmp_path: Path) -> None:
    transcoder().save(tmp_path / "d")
    loaded = tla.load_dictionary(tmp_path / "d")
    (tmp_path / "d" / "layer_1.safetensors").unlink()
    with pytest.raises(FormatError, match=r"layer_1.*was changed since it was opened: load it"):
        loaded.writes(1, torch.tensor([0]), 1)


def test_a_dictionary_is_found_again_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcoder().save(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    loaded = tla.load_dictionary("d")
    monkeypatch.chdir("/")
    assert loaded.writes(1, torch.tensor([0]), 1).shape == (1, loaded.d_model)


def test_missing_hooks_are_an_error_and_hooks_as_arguments_take_precedence(tmp_path: Path) -> None:
    make("crosslayer-transcoder", tmp_path / "d")
    with pytest.raises(InputError, match=r"crosslayer-transcoder\).*feature_input_hook= .*output"):
        tla.load_dictionary(tmp_path / "d")
    with pytest.raises(InputError, match="feature_output_hook= "):
        tla.load_dictionary(tmp_path / "d", feature_input_hook="mlp.hook_in")
    make("sae-lens", tmp_path / "e")
    loaded = tla.load_dictionary(tmp_path / "e", feature_input_hook="mlp.hook_in")
    assert loaded.feature_input_hook == "mlp.hook_in"
    assert loaded.feature_output_hook == "hook_mlp_out"


def test_a_k_and_a_model_that_the_files_lack_are_arguments(tmp_path: Path) -> None:
    case = make("circuit-tracer-topk", tmp_path)
    _edit("config.yaml", k=None)(tmp_path)
    loaded = tla.load_dictionary(tmp_path, k=9, model_name="a/b")
    torch.testing.assert_close(loaded.encode(case.x), case.acts, rtol=1e-5, atol=1e-5)
    assert loaded.model_name == "a/b"
    _edit("config.yaml", activation="relu")(tmp_path)
    assert (tla.load_dictionary(tmp_path).encode(case.x) >= 0).all()
    with pytest.raises(InputError, match="k=9 is for TopK; this is a ReLU"):
        tla.load_dictionary(tmp_path, k=9)


def test_older_circuit_tracer_kept_decoders_the_other_way_round(tmp_path: Path) -> None:
    case = make("circuit-tracer-set", tmp_path)
    files = []
    for i in range(LAYERS):
        tensors = load_file(tmp_path / f"layer_{i}.safetensors")
        tensors["W_dec"] = tensors["W_dec"].T.contiguous()
        (tmp_path / f"layer_{i}.safetensors").unlink()
        save_file(tensors, tmp_path / f"x{i}.safetensors")
        files.append({"id": str(i), "layer": i, "filepath": f"x{i}.safetensors"})
    (tmp_path / "config.yaml").write_text(json.dumps({**HOOKS, "transcoders": files[::-1]}))
    loaded = tla.load_dictionary(tmp_path)
    torch.testing.assert_close(loaded.decode(case.acts, case.x), case.recon, rtol=1e-5, atol=1e-4)


def _edit(file: str, **values: Any) -> Callable[[Path], None]:
    """Change a config, JSON being YAML too."""

    def edit(folder: Path) -> None:
        import yaml

        path = folder / file
        path.write_text(json.dumps(yaml.safe_load(path.read_text()) | values))

    return edit


def _drop(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def _tensors(file: str, **changed: torch.Tensor | None) -> Callable[[Path], None]:
    """Change tensors of a file; None takes one away."""

    def edit(folder: Path) -> None:
        tensors: dict[str, Any] = load_file(folder / file) | changed
        save_file({k: t for k, t in tensors.items() if t is not None}, folder / file)

    return edit


def _objects(folder: Path) -> None:
    path = next(folder.glob("layer_1/*/*/params.npz"))
    np.savez(path, W_enc=np.array([{"a": 1}], dtype=object))


def _cut(folder: Path) -> None:
    path = next(folder.glob("layer_1/*/*/params.npz"))
    path.write_bytes(path.read_bytes()[:-40])


def _second(folder: Path) -> None:
    twin = folder / "layer_1" / "width_16k" / "average_l0_9"
    twin.mkdir()
    (twin / "params.npz").write_bytes(next(folder.glob("layer_1/*/*_1/params.npz")).read_bytes())


_STRAY = torch.ones(FEATURES + 1)
_TAG = "!!python/object/apply:os.system ['echo hi']"


def _tag(folder: Path) -> None:
    (folder / "config.yaml").write_text(f"model_kind: {_TAG}\n")


BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "ct encoder missing": ("circuit-tracer-clt", _drop("W_enc_1.safetensors"), "lacks the W_enc"),
    "ct decoder missing": ("circuit-tracer-clt", _drop("W_dec_1.safetensors"), "W_dec_1.*missing"),
    "ct last layer missing": (
        "circuit-tracer-clt",
        _drop("W_enc_2.safetensors"),
        r"W_dec_0 is \(12, 3, 8\), expected \[feature, 2 layers",
    ),
    "ct shapes": (
        "circuit-tracer-clt",
        _tensors("W_enc_1.safetensors", b_enc_1=_STRAY),
        r"W_enc_1.safetensors: b_enc is \(13,\), expected \(12,\)",
    ),
    "ct tensor missing": (
        "circuit-tracer-clt",
        _tensors("W_enc_1.safetensors", b_dec_1=None),
        "lacks 'b_dec_1'; it holds W_enc_1",
    ),
    "ct numbers": (
        "circuit-tracer-clt",
        _tensors("W_enc_1.safetensors", b_enc_1=torch.ones(FEATURES, dtype=torch.long)),
        "does not hold floating-point",
    ),
    "ct matrix of numbers": (
        "circuit-tracer-clt",
        _tensors("W_enc_1.safetensors", W_enc_1=torch.ones(FEATURES, 8, dtype=torch.long)),
        "W_enc_1 does not hold floating-point",
    ),
    "ct kind": ("circuit-tracer-set", _edit("config.yaml", model_kind="sae"), "model_kind='sae'"),
    "ct above": (
        "circuit-tracer-set",
        _edit("config.yaml", transcoders=["../x"]),
        "names the file",
    ),
    "ct root": (
        "circuit-tracer-set",
        _edit("config.yaml", transcoders=["/etc/x"]),
        "names the file",
    ),
    "ct hub": ("circuit-tracer-set", _edit("config.yaml", transcoders=["hf://a/b/c"]), "elsewhere"),
    "ct number": ("circuit-tracer-set", _edit("config.yaml", transcoders=[3]), "names the file"),
    "ct activation": (
        "circuit-tracer-set",
        _edit("config.yaml", activation="gelu"),
        "activation='gelu' is not supported",
    ),
    "ct k": ("circuit-tracer-topk", _edit("config.yaml", k="9"), "got k='9'"),
    "ct no k": ("circuit-tracer-topk", _edit("config.yaml", k=None), r"k= \(such as 128\).*--k"),
    "ct text": ("circuit-tracer-set", _edit("config.yaml", transcoders="x"), "a list of files"),
    "sae layer missing": ("sae-lens", _drop("x8/sae_weights.safetensors"), r"layers 1; it has \[0"),
    "sae width": ("sae-lens", _edit("x8/cfg.json", d_out=9), "d_in=8 and d_out=9 differ"),
    "sae kind": ("sae-lens", _edit("x8/cfg.json", architecture="gated"), "architecture='gated'"),
    "sae norm": (
        "sae-lens",
        _edit("x8/cfg.json", normalize_activations="layer_norm"),
        "layer_norm",
    ),
    "sae hooks": (
        "sae-lens",
        _edit("x8/cfg.json", metadata={"hook_name": "blocks.1.hook_resid_mid"}),
        "layers differ in their hook_name",
    ),
    "npz objects": ("gemma-scope-1", _objects, "Python objects, which can run code"),
    "npz cut": ("gemma-scope-1", _cut, "truncated or corrupt"),
    "npz several": ("gemma-scope-1", _second, "several dictionaries: layer 1 is in .*average_l0_1"),
    "gemma layers": ("gemma-scope-2-clt", _drop("params_layer_2.safetensors"), "the 2 layers that"),
    "gemma hook": (
        "gemma-scope-2",
        _edit("layer_1_width_16k_l0_small_affine/config.json", hf_hook_point_in="x"),
        "layers differ in their hook in",
    ),
    "gemma hooks": (
        "gemma-scope-2-clt-hooks",
        _edit("config.json", hf_hook_point_in=[1, 2, 3]),
        "expected a hook, or one per layer",
    ),
    "clt-training batchtopk": (
        "clt-training",
        _edit("layers.1.mlp/cfg.json", activation="batchtopk"),
        "activation='batchtopk' is not supported",
    ),
    "clt-training k": ("clt-training", _edit("layers.1.mlp/cfg.json", k=5), "differ in their k"),
    "clt-training no MLP": (
        "clt-training",
        _edit("layers.1.mlp/cfg.json", transcode=False),
        "trans",
    ),
    "clt-training beyond": ("clt-training", _edit("layers.1.mlp/cfg.json", n_targets=3), "beyond"),
    "clt-training skip": (
        "clt-training",
        _tensors("layers.0.mlp/sae.safetensors", **{"W_skips.1": torch.eye(8)}),
        "W_skips.1 skip to layers above",
    ),
    "coding statistics": ("crosslayer-coding", _drop("norm_stats.json"), "copy it here"),
    "coding statistics short": (
        "crosslayer-coding",
        _edit("norm_stats.json", **{"1": {}}),
        "layer 1",
    ),
    "coding topk": (
        "crosslayer-coding",
        _edit("cfg.json", activation_fn="batchtopk"),
        "convert_batchtopk_to_jumprelu.py",
    ),
    "coding weights": ("crosslayer-coding", _drop("clt.safetensors"), "found nothing"),
    "coding decoder": (
        "crosslayer-coding",
        _tensors("clt.safetensors", **{"decoder_module.decoders.0->2.weight": None}),
        r"lacks 'decoder_module.decoders.0->2.weight'",
    ),
    "coding norm": (
        "crosslayer-coding",
        _edit("cfg.json", normalization_method="x"),
        "='x' is not",
    ),
    "transcoder weights": ("crosslayer-transcoder", _drop("checkpoint.safetensors"), "missing"),
    "transcoder args": (
        "crosslayer-transcoder",
        _edit("config.yaml", model={"class_path": "CrossLayerTranscoder", "init_args": [1]}),
        "not built as theirs are: AttributeError",
    ),
    "transcoder class": (
        "crosslayer-transcoder",
        _edit("config.yaml", model={"class_path": "a.Other"}),
        "model='Other' is not supported",
    ),
    "llama biases": (
        "llamascopium-topk",
        _tensors("sae_weights.safetensors", b_E=torch.ones(2, FEATURES)),
        "not built as theirs are: IndexError",
    ),
    "llama width": ("llamascopium-topk", _edit("config.json", d_model=9), "a width of 9"),
    "llama kind": ("llamascopium-topk", _edit("config.json", sae_type="lorsa"), "sae_type='lorsa'"),
    "llama over layers": (
        "llamascopium-topk",
        _edit("config.json", act_fn="layertopk"),
        "layertopk",
    ),
    "llama token-wise": (
        "llamascopium-topk",
        _edit("config.json", norm_activation="token-wise"),
        "norm_activation='token-wise' is not supported",
    ),
    "llama hooks": ("llamascopium-topk", _edit("config.json", hook_points_in=["a"]), "3 layers of"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_cannot_be_read_says_why(how: str, tmp_path: Path) -> None:
    name, damage, message = BROKEN[how]
    make(name, tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises((FormatError, MismatchError, InputError), match=message):
        tla.load_dictionary(tmp_path / "d", **HOOKS)


def test_yaml_makes_no_objects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make("circuit-tracer-set", tmp_path)
    _tag(tmp_path)
    with pytest.raises(FormatError, match="not plain YAML"):
        tla.load_dictionary(tmp_path)
    assert "hi" not in capfd.readouterr().out


def test_an_unknown_folder_says_what_every_format_needs(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("hello")
    (tmp_path / "cfg.json").write_text("[1]")
    with pytest.raises(FormatError) as error:
        tla.load_dictionary(tmp_path)
    message = str(error.value)
    assert "found: cfg.json, readme.md" in message
    for name in ("tl-attribution", "circuit-tracer", "sae-lens", "Gemma Scope", "clt-training"):
        assert f" {name}: " in message
    for name in ("crosslayer-coding", "crosslayer-transcoder", "Llamascopium"):
        assert f" {name}: " in message


@pytest.mark.parametrize(
    ("file", "way"),
    [
        ("clt.pt", "convert_batchtopk_to_jumprelu.py"),
        ("pytorch_model.bin", "save_pretrained"),
        ("weights.pkl", "can run code"),
        ("last.ckpt", r"model.save_pretrained\(folder\)"),
        ("sae_weights.dcp", r"from_pretrained\(folder\).save_pretrained"),
    ],
)
def test_pickles_are_refused_with_the_way_to_convert_them(
    file: str, way: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match=f"holds {file}, a pickle.*{way}"):
        tla.load_dictionary(tmp_path)
