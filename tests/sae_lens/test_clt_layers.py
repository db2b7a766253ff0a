"""A CLT in place of all MLPs of SAELens's models gives what tla.replacement_logits gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

import sae_lens
from sae_lens import HookedSAETransformer

import tl_attribution as tla
from tests.models import FAMILIES, HOSTS, N_LAYERS, VOCAB, hugging_face, tiny, tokenizer
from tests.random_dictionaries import FEATURES, transcoder
from tl_attribution.dictionaries.activations import JumpReLU, TopK
from tl_attribution.errors import InputError, UnsupportedModelError
from tl_attribution.plugins.sae_lens import to_sae_lens

pytestmark = pytest.mark.hosts

IDS = torch.randint(3, VOCAB, (1, 7), generator=torch.Generator().manual_seed(2))
SAE_HOSTS = tuple(host for host in HOSTS if host != "bridge-compatible")
READS = ("hook_mlp_in", "mlp.hook_in", "ln2.hook_normalized")


@cache
def sae_model(family: str, host: str) -> Any:
    """A tiny model of a class of SAELens's; what is attached to it must be taken away."""
    if host == "bridge":
        return sae_lens.SAETransformerBridge.boot_transformers(
            f"tiny-{family}", hf_model=hugging_face(family), tokenizer=tokenizer(), device="cpu"
        )
    plain = tiny(family, host)
    model = HookedSAETransformer(plain.cfg, tokenizer=tokenizer())
    model.load_state_dict(plain.state_dict())
    return model.eval()


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).detach().abs().max()) <= 1e-4 * float(other.detach().abs().max())


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("host", SAE_HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_at_once_are_the_replacement_model(family: str, host: str, read: str) -> None:
    model = sae_model(family, host)
    dictionary = transcoder(skip=True, read=read)
    sae = to_sae_lens(dictionary)
    before = model(IDS)
    logits = model.run_with_saes(IDS, saes=sae.at_each_layer(model))
    assert close(logits[0], tla.replacement_logits(model, IDS, dictionary, prefix=0))
    assert not close(logits[0], before[0])
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_what_no_hook_holds_is_left_to_tla(host: str) -> None:
    """Before Gemma's post-norm a bridge has a hook, a HookedTransformer has none."""
    model = sae_model("gemma2", host)
    dictionary = transcoder(write="mlp.hook_out")
    sae = to_sae_lens(dictionary)
    if host == "bridge":
        logits = model.run_with_saes(IDS, saes=sae.at_each_layer(model))
        assert close(logits[0], tla.replacement_logits(model, IDS, dictionary, prefix=0))
    else:
        with pytest.raises(InputError, match=r"at 'mlp.hook_out'; use tla\.replacement_logits"):
            sae.at_each_layer(model)


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_other_activations_a_window_and_a_batch(host: str) -> None:
    model = sae_model("gpt2", host)
    threshold = torch.full((N_LAYERS, FEATURES), 0.2)
    ids = torch.cat([IDS, IDS.flip(1)])
    for activation in (JumpReLU(threshold), TopK(3)):
        dictionary = transcoder(activation, window=2)
        logits = model.run_with_saes(ids, saes=to_sae_lens(dictionary).at_each_layer(model))
        for row, row_logits in zip(ids, logits, strict=True):
            assert close(row_logits, tla.replacement_logits(model, row, dictionary, prefix=0))


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_with_the_error_term_the_model_is_itself_until_a_feature_is_changed(host: str) -> None:
    model = sae_model("gpt2", host)
    dictionary = transcoder()
    saes = to_sae_lens(dictionary).at_each_layer(model)
    before = model(IDS)
    with model.saes(saes, use_error_term=True):
        assert close(model(IDS), before)
        written = {}

        def add(acts: Tensor, hook: Any) -> Tensor:
            return acts + 3.0 * torch.nn.functional.one_hot(torch.tensor(5), FEATURES)

        def look(out: Tensor, hook: Any) -> None:
            written[hook.name] = out

        hook_at = "blocks.{}.mlp.hook_out" if host == "bridge" else "blocks.{}.hook_mlp_out"
        looks = [(hook_at.format(i) + ".hook_sae_recons", look) for i in range(N_LAYERS)]
        model.run_with_hooks(IDS, fwd_hooks=looks)
        unchanged = dict(written)
        changed = model.run_with_hooks(
            IDS, fwd_hooks=[(hook_at.format(0) + ".hook_sae_acts_post", add), *looks]
        )
    assert not close(changed, before)
    first = next(iter(written))
    gain = written[first] - unchanged[first]
    expected = 3.0 * dictionary.writes(0, torch.tensor([5]), 0)
    assert torch.allclose(gain[0], expected.expand_as(gain[0]), atol=1e-5)


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_a_changed_feature_writes_to_the_later_layers(host: str) -> None:
    """Where features read nothing that changed, the difference is the decoder, layer by layer."""
    model = sae_model("gpt2", host)
    dictionary = transcoder()
    for layer in dictionary.layers:
        layer.W_enc.zero_()
    saes = to_sae_lens(dictionary).at_each_layer(model)
    name = "blocks.{}.mlp.hook_out" if host == "bridge" else "blocks.{}.hook_mlp_out"
    outs: list[dict[str, Tensor]] = []
    for amount in (0.0, 3.0):
        seen: dict[str, Tensor] = {}

        def add(acts: Tensor, hook: Any, amount: float = amount) -> Tensor:
            return acts + amount * torch.nn.functional.one_hot(torch.tensor(5), FEATURES)

        def look(out: Tensor, hook: Any, seen: dict[str, Tensor] = seen) -> None:
            seen[hook.name] = out.detach()

        with model.saes(saes):
            model.run_with_hooks(
                IDS,
                fwd_hooks=[
                    (name.format(0) + ".hook_sae_acts_post", add),
                    *[(name.format(i) + ".hook_sae_recons", look) for i in range(N_LAYERS)],
                ],
            )
        outs.append(seen)
    for target, hook in enumerate(outs[0]):
        expected = 3.0 * dictionary.writes(0, torch.tensor([5]), target)
        gain = outs[1][hook] - outs[0][hook]
        assert torch.allclose(gain[0], expected.expand_as(gain[0]), atol=1e-5)


@pytest.mark.skipif("hooked" not in SAE_HOSTS, reason="no HookedTransformer")
def test_special_tokens_left_out_are_a_prefix() -> None:
    model = sae_model("gpt2", "hooked")
    ids = torch.cat([torch.tensor([[1]]), IDS], 1)
    dictionary = transcoder(skip=True)
    logits = model.run_with_saes(
        ids, saes=to_sae_lens(dictionary).at_each_layer(model), exclude_special_tokens=[1]
    )
    assert close(logits[0], tla.replacement_logits(model, ids, dictionary, prefix=1))


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_a_clt_alone_or_some_of_its_layers_are_refused(host: str) -> None:
    model = sae_model("gpt2", host)
    sae = to_sae_lens(transcoder())
    before = model(IDS)
    with pytest.raises(InputError, match=r"tla\.replacement_logits"):
        model.run_with_saes(IDS, saes=sae)
    with pytest.raises(InputError, match=r"tla\.replacement_logits"):
        model.add_sae(sae)
    with pytest.raises(InputError, match=r"layer 1 .* ran without layer 0: attach the whole list"):
        model.run_with_saes(IDS, saes=sae.at_each_layer(model)[1:])
    with pytest.raises(InputError, match="is a layer of a cross_layer_transcoder"):
        tla.load_dictionary(sae.at_each_layer(model))
    assert torch.equal(model(IDS), before)
    short = transcoder()
    shallow = tla.CrossLayerTranscoder(
        [type(w)(w.W_enc, w.b_enc, w.W_dec[:, :1], w.b_dec) for w in short.layers[:2]],
        short.activation,
        feature_input_hook="mlp.hook_in",
    )
    with pytest.raises(InputError, match="has 2 layers, tiny-gpt2 has 3"):
        to_sae_lens(shallow).at_each_layer(model)


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_sae_models_are_traced(host: str) -> None:
    model = sae_model("gpt2", host)
    assert model.attribution_graph(IDS[0], transcoder()).residual() < 1e-4
    plain = tiny("gpt2", host)
    expected = tla.replacement_logits(plain, IDS, transcoder(read="hook_resid_pre"))
    assert close(tla.replacement_logits(model, IDS, transcoder(read="hook_resid_pre")), expected)


@pytest.mark.parametrize("host", SAE_HOSTS)
def test_a_model_with_an_sae_attached_is_refused_not_ignored(host: str) -> None:
    model = sae_model("gpt2", host)
    with model.saes(to_sae_lens(transcoder()).at_each_layer(model)):
        for trace in (tla.replacement_logits, tla.attribute):
            with pytest.raises(UnsupportedModelError, match=r"has SAEs attached at .*reset_saes"):
                trace(model, IDS[0], transcoder())
