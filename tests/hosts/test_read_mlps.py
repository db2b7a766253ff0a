"""Reading a batch gives what a snapshot of each row holds, with or without padding."""

from __future__ import annotations

import pytest
import torch

from tests.models import FAMILIES, HOSTS, N_LAYERS, VOCAB, tiny
from tl_attribution.errors import UnsupportedModelError
from tl_attribution.hosts.protocols import Host, MlpPairs
from tl_attribution.hosts.registry import host_for
from tl_attribution.hosts.sites import ReadSite, WriteSite

LENGTHS = (9, 4, 9)
SITES = {
    "mlp.hook_in": ReadSite("mlp", "affine"),
    "ln2.hook_normalized": ReadSite("mlp", "normalized"),
    "hook_mlp_in": ReadSite("mlp", "none"),
    "hook_resid_pre": ReadSite("resid_pre", "none"),
}

pytestmark = pytest.mark.hosts


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=generator)
    ids[:, 0] = 1
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = 0
    return ids


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((actual - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("host_name", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_equals_its_own_snapshot(family: str, host_name: str) -> None:
    host = host_for(tiny(family, host_name))
    snapshots = [host.snapshot(ids[:n]) for ids, n in zip(rows(), LENGTHS, strict=True)]
    writes = [WriteSite(before_norm) for before_norm in (False, True)]
    for hook, site in SITES.items():
        assert host.read_site(hook) == site
        for write in writes:
            pairs = host.read_mlps(rows(), site, write)
            for i, n in enumerate(LENGTHS):
                inputs = host.read(rows()[i, :n], site)
                assert_close(pairs.inputs[i, :n].transpose(0, 1), inputs)
                written = torch.stack([block.written(write) for block in snapshots[i].blocks])
                assert_close(pairs.outputs[i, :n].transpose(0, 1), written)


@pytest.mark.parametrize("host_name", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_before_it(family: str, host_name: str) -> None:
    host = host_for(tiny(family, host_name))
    padded = read(host, rows())
    for i, n in enumerate(LENGTHS):
        alone = read(host, rows()[i : i + 1, :n])
        assert alone.inputs.shape == (1, n, N_LAYERS, host.d_model)
        for values, expected in zip(padded, alone, strict=True):
            assert_close(values[i : i + 1, :n], expected)


def read(host: Host, ids: torch.Tensor) -> MlpPairs:
    return host.read_mlps(ids, SITES["mlp.hook_in"], WriteSite(before_norm=False))


@pytest.mark.parametrize("host_name", HOSTS)
def test_the_model_is_left_as_it_was(host_name: str) -> None:
    model = tiny("gemma2", host_name)
    host = host_for(model)
    before = model(rows())
    pairs = read(host, rows())
    assert torch.equal(model(rows()), before)
    assert not pairs.inputs.requires_grad
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.skipif("hooked" not in HOSTS, reason="needs HookedTransformer")
def test_a_model_without_mlps_is_refused() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "n_ctx": 16, "d_vocab": VOCAB}
    model = HookedTransformer(HookedTransformerConfig(**sizes, attn_only=True, device="cpu"))
    with pytest.raises(UnsupportedModelError, match="has no mlp"):
        read(host_for(model), rows())


@pytest.mark.parametrize("host_name", HOSTS)
def test_many_texts_get_the_ids_that_each_gets_alone(host_name: str) -> None:
    host = host_for(tiny("gpt2", host_name))
    texts = [" w1 w2", " w3", " w40 w2 w2 w7"]
    for with_bos in (True, False):
        alone = [host.tokenize(text, with_bos=with_bos) for text in texts]
        assert host.tokenize_all(texts, with_bos=with_bos) == alone
    assert host.tokenize_all([""], with_bos=True) == [[1]]
    assert host.tokenize_all([], with_bos=True) == []
    assert len(host.tokenize_all([" w1" * 100], with_bos=False)[0]) == 100


@pytest.mark.parametrize("host_name", HOSTS)
def test_tokenizers_that_give_the_same_ids_have_the_same_digest(host_name: str) -> None:
    host = host_for(tiny("gpt2", host_name))
    digest = host.tokenizer_digest()
    host.tokenize(" w1", with_bos=True)
    assert host.tokenizer_digest() == digest
    assert host_for(tiny("llama", host_name)).tokenizer_digest() == digest
