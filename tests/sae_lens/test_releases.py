"""Releases by SAELens's names: what is chosen, and SAELens's own loaders reading local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders
from sae_lens.loading.pretrained_saes_directory import (
    PretrainedSAELookup,
    get_pretrained_saes_directory,
)

import tl_attribution as tla
from tl_attribution.errors import InputError, NotFoundError
from tl_attribution.plugins.sae_lens.releases import choices, choose, names

GEMMA = "gemma-scope-2-270m-pt-transcoders-all"
QWEN = "mwhanna-qwen3-0.6b-transcoders-lowl0"
WIDTH, FEATURES = 8, 6


def ids(release: str, request: str = "") -> list[str]:
    return choose(get_pretrained_saes_directory()[release], request)


@pytest.mark.parametrize("release", names())
def test_every_release_has_a_default_with_every_layer(release: str) -> None:
    chosen = ids(release)
    assert chosen == list(dict.fromkeys(chosen))
    for layer, id_ in enumerate(chosen):
        assert id_.startswith((f"layer_{layer}/", f"layer_{layer}_")) or id_ == f"layer_{layer}"


@pytest.mark.parametrize(
    ("request_", "first"),
    [
        ("", "layer_0_width_16k_l0_big"),
        ("width_262k", "layer_0_width_262k_l0_big"),
        ("l0_small", "layer_0_width_16k_l0_small"),
        ("l0_20", "layer_0_width_16k_l0_small"),
        ("affine", "layer_0_width_16k_l0_big_affine"),
        ("width_262k_l0_small_affine", "layer_0_width_262k_l0_small_affine"),
        ("l0_small, width_262k", "layer_0_width_262k_l0_small"),
    ],
)
def test_what_is_asked_for_is_chosen(request_: str, first: str) -> None:
    chosen = ids(GEMMA, request_)
    assert chosen[0] == first
    assert chosen[17] == first.replace("layer_0", "layer_17")


def test_a_number_is_the_nearest_l0_of_each_layer() -> None:
    l0s = {f"layer_{i}/width_{w}/average_l0_{n}": float(n) for i, w, n in LISTED}
    release = PretrainedSAELookup(
        "r", "o/r", "m", None, dict.fromkeys(l0s, "p"), {}, l0s, {}, {}, None
    )
    assert choose(release, "") == [
        "layer_0/width_16k/average_l0_90",
        "layer_1/width_16k/average_l0_140",
    ]
    assert choose(release, "l0_20")[1] == "layer_1/width_16k/average_l0_40"
    assert choose(release, "width_65k") == [
        "layer_0/width_65k/average_l0_80",
        "layer_1/width_65k/average_l0_99",
    ]
    assert set(map(str, choices(release))) == {"width_16k", "width_65k"}


LISTED = [
    (0, "65k", 80), (1, "65k", 99), (0, "16k", 20), (0, "16k", 90), (1, "16k", 140), (1, "16k", 40)
]  # fmt: skip


@pytest.mark.parametrize("request_", ["width_1m", "width16k", "l0_huge", "width_16k_and_more"])
def test_a_wrong_choice_lists_what_there_is(request_: str) -> None:
    with pytest.raises(
        NotFoundError, match=r"choose from width_16k_l0_big, width_16k_l0_big_affine"
    ):
        tla.load_dictionary(f"{GEMMA}:{request_}")
    with pytest.raises(NotFoundError, match="choose from the only one"):
        tla.load_dictionary(f"{QWEN}:{request_}")


def test_releases_that_make_no_dictionary() -> None:
    with pytest.raises(InputError, match=r"for layers 0, 1, .* every layer: try '.*-all'"):
        tla.load_dictionary("gemma-scope-2-1b-pt-transcoders")
    with pytest.raises(InputError, match=r"layers 0, 1, 2, 3, .*, 14, and"):
        tla.load_dictionary("gemma-scope-2-270m-pt-transcoders")
    with pytest.raises(InputError, match=r"sums .*itself, 'mntss/clt-gemma-2-2b-2.5M'"):
        tla.load_dictionary("mntss-gemma-2-2b-2.5m-clt-as-per-layer")
    with pytest.raises(NotFoundError, match=r"did you mean '?gemma-scope-2b-pt-transcoders"):
        tla.load_dictionary("gemma-scope-2b-pt-transcoder")


def gemma_scope_2(folder: Path, id_: str, layer: int) -> None:
    """As Google publishes one layer, with random weights."""
    here = folder / "transcoder_all" / id_
    here.mkdir(parents=True)
    said = {
        "architecture": "jump_relu",
        "model_name": "gemma-3-270m",
        "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
        "affine_connection": "affine" in id_,
    }
    (here / "config.json").write_text(json.dumps(said))
    generator = torch.Generator().manual_seed(layer)
    shapes = {
        "w_enc": (WIDTH, FEATURES),
        "w_dec": (FEATURES, WIDTH),
        "b_enc": (FEATURES,),
        "b_dec": (WIDTH,),
        "threshold": (FEATURES,),
        "affine_skip_connection": (WIDTH, WIDTH),
    }
    tensors = {k: torch.randn(*s, generator=generator).abs() - 0.5 for k, s in shapes.items()}
    if "affine" not in id_:
        del tensors["affine_skip_connection"]
    save_file(tensors, here / "params.safetensors")


def qwen(folder: Path, layer: int) -> None:
    """As mwhanna publishes one layer, with random weights."""
    generator = torch.Generator().manual_seed(layer)
    shapes = {"W_enc": (FEATURES, WIDTH), "W_dec": (FEATURES, WIDTH)}
    shapes |= {"b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    tensors = {k: torch.randn(*s, generator=generator) for k, s in shapes.items()}
    save_file(tensors, folder / f"layer_{layer}.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the Hub: only its files can be had."""

    def download(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        if not (file := tmp_path / repo_id / subfolder / filename).is_file():
            raise pretrained_sae_loaders.EntryNotFoundError(f"{repo_id}/{filename}")
        return str(file)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(tmp_path / repo_id / filename, framework="pt") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", download)
    monkeypatch.setattr(pretrained_sae_loaders, "get_safetensors_tensor_shapes", shapes)
    return tmp_path


def assert_same(dictionary: tla.Dictionary, release: str, chosen: list[str]) -> None:
    x = torch.randn(len(chosen), 4, WIDTH, generator=torch.Generator().manual_seed(1))
    acts = dictionary.encode(x)
    written = dictionary.decode(acts, x)
    for layer, id_ in enumerate(chosen):
        sae = SAE.from_pretrained(release, id_)
        assert torch.allclose(acts[layer], sae.encode(x[layer]), rtol=1e-5, atol=1e-6)
        assert torch.allclose(written[layer], sae(x[layer]), rtol=1e-5, atol=1e-5)
    assert 0 < float((acts != 0).float().mean()) < 1


@pytest.mark.parametrize("request_", ["", ":width_262k_l0_small_affine"])
def test_gemma_scope_2_by_name(hub: Path, request_: str) -> None:
    chosen = ids(GEMMA, request_[1:])
    for layer, id_ in enumerate(chosen):
        gemma_scope_2(hub / "google" / "gemma-scope-2-270m-pt", id_, layer)
    dictionary = tla.load_dictionary(GEMMA + request_)
    assert_same(dictionary, GEMMA, chosen)
    assert dictionary.feature_input_hook == "mlp.hook_in"
    assert dictionary.feature_output_hook == "hook_mlp_out"
    assert dictionary.model_name == "google/gemma-3-270m"
    assert (dictionary.skip(0) is not None) == ("affine" in request_)


@pytest.mark.filterwarnings("ignore:\\s*This SAE has non-empty model_from_pretrained_kwargs")
def test_qwen_by_name_in_another_dtype(hub: Path) -> None:
    folder = hub / "mwhanna" / "qwen3-0.6b-transcoders-lowl0"
    folder.mkdir(parents=True)
    for layer in range(28):
        qwen(folder, layer)
    said = {"d_model": WIDTH, "d_feature": FEATURES, "batch_size": 2}
    lines = [f"{name}:\n  value: {value}" for name, value in said.items()]
    (folder / "wandb-config.yaml").write_text("\n".join(lines))
    (folder / "config.yaml").write_text("model_name: Qwen/Qwen3-0.6B")
    assert_same(tla.load_dictionary(QWEN), QWEN, ids(QWEN))
    half = tla.load_dictionary(QWEN, dtype=torch.bfloat16)
    assert isinstance(half, tla.TranscoderSet)
    assert half.layers[3].W_enc.dtype == torch.bfloat16
    assert half.model_name == "Qwen/Qwen3-0.6B"
