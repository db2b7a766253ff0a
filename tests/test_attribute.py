"""attribute(): targets, prefix, selection and its certificate, features, replacement, bad input."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

import tl_attribution as tla
from tests.models import D_MODEL, RAW_HOSTS, VOCAB, tiny
from tests.random_dictionaries import KINDS, transcoder
from tl_attribution.dictionaries.activations import JumpReLU
from tl_attribution.errors import (
    FormatError,
    InputError,
    MismatchError,
    NotFoundError,
    ProofError,
    TooLargeError,
    UnsupportedModelError,
)
from tl_attribution.graph.graph import Graph

PROMPT = [1, 9, 20, 33, 9, 41]
TEXT = " w5 w16 w29 w5 w37"
pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module", params=RAW_HOSTS)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny("gpt2", request.param)


@pytest.fixture(scope="module")
def graph(model: Any) -> Graph:
    return tla.attribute(model, PROMPT, transcoder())


def test_text_ids_and_tensors_are_the_same_prompt(model: Any, graph: Graph) -> None:
    assert tla.attribute(model, TEXT, transcoder()) == graph
    assert tla.attribute(model, torch.tensor(PROMPT), transcoder()) == graph
    assert model.attribution_graph(TEXT, transcoder()) == graph
    assert graph.metadata.tokens == ("<bos>", " w5", " w16", " w29", " w5", " w37")
    assert graph.metadata.prompt == TEXT


def test_salient_logits_hold_the_wanted_mass(model: Any) -> None:
    logits = model(torch.tensor([PROMPT]))[0, -1].detach()
    probabilities, order = logits.softmax(-1).sort(descending=True)
    graph = tla.attribute(model, PROMPT, transcoder(), max_logits=50, logit_mass=0.5)
    chosen = [n.index for n in graph.nodes if n.kind == "logit"]
    assert chosen == order[: len(chosen)].tolist()
    assert float(probabilities[: len(chosen)].sum()) >= 0.5
    assert float(probabilities[: len(chosen) - 1].sum()) < 0.5
    few = tla.attribute(model, PROMPT, transcoder(), max_logits=3, logit_mass=1.0)
    assert [n.index for n in few.nodes if n.kind == "logit"] == order[:3].tolist()
    assert few.target_weights[-3:].tolist() == pytest.approx(probabilities[:3].tolist(), rel=1e-4)


def _row(graph: Graph, target: int) -> torch.Tensor:
    return torch.cat([graph.adjacency[target], graph.constant[target : target + 1]])


def test_a_difference_is_the_difference_of_two_logits(model: Any) -> None:
    pair = tla.attribute(model, PROMPT, transcoder(), targets=[" w3", " w9"])
    both = tla.attribute(model, PROMPT, transcoder(), targets=tla.DifferenceTarget(" w3", " w9"))
    n = len(both.nodes) - 1
    difference = _row(pair, n) - _row(pair, n + 1)
    assert torch.allclose(_row(both, n)[:n], difference[:n], atol=1e-5)
    assert _row(both, n)[-1] == pytest.approx(float(difference[-1]), abs=1e-5)
    logits = model(torch.tensor([PROMPT]))[0, -1].detach()
    measured = float(logits[4 + 3] - logits[4 + 9])
    assert float(both.preactivation[-1]) == pytest.approx(measured, abs=1e-4)


def test_a_direction_at_the_final_stream_measures_that_stream(model: Any) -> None:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    for layer in (1, None):
        target = tla.DirectionTarget(vector, layer=layer, position=3)
        graph = tla.attribute(model, PROMPT, transcoder(), targets=[target])
        _, cache = model.run_with_cache(torch.tensor([PROMPT]))
        name = "blocks.2.hook_resid_post" if layer is None else "blocks.1.hook_resid_pre"
        measured = float(cache[name][0, 3].detach() @ vector)
        assert float(graph.preactivation[-1]) == pytest.approx(measured, rel=1e-4)
        assert graph.residual() < 1e-4
        assert int(graph.nodes.position[graph.nodes.is_kind("feature")].max()) <= 3


def test_logits_after_an_earlier_position_ignore_what_comes_later(model: Any) -> None:
    early = tla.attribute(model, PROMPT, transcoder(), targets=[tla.TokenTarget(" w3", 2)])
    short = tla.attribute(model, PROMPT[:3], transcoder(), targets=[" w3"])
    assert _row(early, -1).abs().sum() == pytest.approx(
        float(_row(short, -1).abs().sum()), rel=1e-4
    )
    assert early.residual() < 1e-4


def test_a_feature_can_be_what_is_explained(model: Any, graph: Graph) -> None:
    node = next(n for n in graph.nodes if n.kind == "feature" and n.layer == 2)
    target = tla.FeatureTarget(node.layer, node.position, node.index)
    about = tla.attribute(model, PROMPT, transcoder(), targets=[target])
    row = about.nodes.find("feature", node.layer, node.position, node.index)
    assert about.target_weights.nonzero().flatten().tolist() == [row]
    assert {n.kind for n in about.nodes} == {"feature", "error", "token", "position"}
    full = graph.nodes.find("feature", node.layer, node.position, node.index)
    for source, n in enumerate(about.nodes):
        whole = graph.nodes.find(n.kind, n.layer, n.position, n.index)
        assert float(about.adjacency[row, source]) == pytest.approx(
            float(graph.adjacency[full, whole]), abs=1e-5
        )
    assert about.prune().nodes.find("feature", node.layer, node.position, node.index) >= 0


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_the_prefix_has_no_features_and_its_mlps_are_constant(model: Any, prefix: int) -> None:
    graph = tla.attribute(model, PROMPT, transcoder(), prefix=prefix)
    inner = graph.nodes.is_kind("feature", "error")
    assert int(graph.nodes.position[inner].min()) == prefix
    assert graph.residual() < 1e-4
    assert graph.metadata.prefix == prefix


@pytest.mark.parametrize("kind", ["clt-relu", "per-layer-skip", "neurons"])
def test_partial_graphs_add_up_and_their_certificate_holds(model: Any, kind: str) -> None:
    dictionary = KINDS[kind](model)
    full = tla.attribute(model, PROMPT, dictionary)
    last = 0.0
    ways: list[dict[str, Any]] = [{"coverage": 0.5}, {"coverage": 0.9}, {"max_features": 10}]
    for options in (*ways, {"coverage": 1.0}):
        part = tla.attribute(model, PROMPT, dictionary, **options)
        assert part.residual() < 1e-4
        rows = [full.nodes.find(n.kind, n.layer, n.position, n.index) for n in part.nodes]
        targets = part.is_target
        same = full.adjacency[rows][:, rows]
        assert torch.allclose(part.adjacency[targets], same[targets], atol=1e-5)
        c = part.certificate
        assert c.active == int(full.nodes.is_kind("feature").sum())
        assert c.expanded == int(part.nodes.is_kind("feature").sum())
        low, high = c.replacement
        assert low - 1e-5 <= full.scores().replacement <= high + 1e-5
        low, high = c.completeness
        assert low - 1e-5 <= full.scores().completeness <= high + 1e-5
        if options == {"coverage": 0.9}:
            assert c.unexpanded_influence < last
        last = c.unexpanded_influence
    assert last == pytest.approx(0.0, abs=1e-5)


def test_max_features_takes_the_most_influential(model: Any, graph: Graph) -> None:
    part = tla.attribute(model, PROMPT, transcoder(), max_features=12)
    features = graph.nodes.is_kind("feature")
    best = graph.nodes.influence[features].topk(12).indices.tolist()
    wanted = {graph.nodes[i].id for i in best}
    found = {n.id for n in part.nodes if n.kind == "feature"}
    assert len(found) == 12
    assert len(wanted & found) >= 10  # found in rounds, so the last few may differ


def test_features_alone_equal_the_graphs(model: Any, graph: Graph) -> None:
    active = tla.features(model, PROMPT, transcoder())
    assert isinstance(active, type(tla.features(model, TEXT, transcoder())))
    rows = graph.nodes.is_kind("feature")
    for column in ("layer", "position", "index"):
        assert torch.equal(getattr(active, column), getattr(graph.nodes, column)[rows])
    assert torch.allclose(active.activation, graph.nodes.activation[rows], atol=1e-5)
    batch = tla.features(model, [TEXT, " w1 w2"], transcoder())
    assert torch.equal(batch[0].index, active.index)
    assert len(batch[1]) == len(tla.features(model, " w1 w2", transcoder()))
    with_prefix = tla.features(model, PROMPT, transcoder(), prefix=0)
    assert int(with_prefix.position.min()) == 0


@pytest.mark.parametrize("kind", ["clt-skip", "clt-topk", "clt-raw-write", "per-layer-skip-resid"])
@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
@pytest.mark.parametrize("host", RAW_HOSTS)
def test_the_replacement_model_with_errors_is_the_model(family: str, host: str, kind: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS[kind](model)
    logits = model(torch.tensor([PROMPT]))[0].detach()
    with_errors = tla.replacement_logits(model, PROMPT, dictionary, errors=True)
    assert torch.allclose(with_errors, logits, atol=1e-3)
    without = tla.replacement_logits(model, PROMPT, dictionary)
    assert (without - logits).abs().max() > 0.1
    assert torch.allclose(without[0], logits[0], atol=1e-3)  # the prefix keeps its own MLPs


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("host", RAW_HOSTS)
def test_neurons_replace_the_mlps_without_a_trace(family: str, host: str) -> None:
    model = tiny(family, host)
    replaced = tla.replacement_logits(model, PROMPT, tla.neurons(model))
    assert torch.allclose(replaced, model(torch.tensor([PROMPT]))[0].detach(), atol=1e-3)


def test_half_precision_on_a_cpu_is_computed_in_fp32(model: Any) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    graph = tla.attribute(half, PROMPT, transcoder())
    assert graph.adjacency.dtype == torch.float32
    assert graph.residual() < 1e-4
    assert next(half.parameters()).dtype == torch.bfloat16


def test_a_prompt_without_active_features_is_tokens_and_errors(model: Any) -> None:
    silent = transcoder(JumpReLU(torch.full((3, 14), 1e6)))
    for options in ({}, {"coverage": 0.9}, {"max_features": 5}):
        graph = tla.attribute(model, PROMPT, silent, **options)
        assert {n.kind for n in graph.nodes} == {"error", "token", "position", "logit"}
        assert graph.residual() < 1e-4
        assert len(tla.features(model, PROMPT, silent)) == 0
        assert graph.prune().residual() < 1e-4


def test_progress_is_told_to_the_end(model: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    tla.attribute(model, PROMPT, transcoder(), progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1] * 33}, "33 tokens; tiny-gpt2 takes 32"),
        ({"prompt": [1, VOCAB]}, f"token id {VOCAB} is outside"),
        ({"prompt": [1, -2]}, "token id -2 is outside"),
        ({"targets": [" w1 w2"]}, r"is 2 tokens \(' w1', ' w2'\)"),
        ({"targets": [VOCAB]}, f"target token id {VOCAB}"),
        ({"targets": []}, "targets is empty"),
        ({"targets": [tla.TokenTarget(" w1", 99)]}, "position 99 is outside"),
        ({"targets": [tla.TokenTarget(" w1", weight=-1.0)]}, "must be positive"),
        ({"targets": [tla.FeatureTarget(0, 1, 9999)]}, "is not active on this prompt"),
        ({"targets": [tla.DirectionTarget(torch.zeros(3))]}, "is 32 finite numbers"),
        ({"targets": [tla.DirectionTarget(torch.zeros(32), layer=7)]}, "layer 7 is outside"),
        ({"max_logits": 0}, "max_logits must be at least 1"),
        ({"logit_mass": 1.5}, "logit_mass must be"),
        ({"coverage": 1.01}, "coverage must be between 0 and 1"),
        ({"max_features": -1}, "must not be negative"),
        ({"prefix": 6}, "prefix must be between 0 and 5"),
        ({"engine": "magic"}, "engine must be one of"),
    ],
)
def test_bad_arguments(model: Any, options: dict[str, Any], message: str) -> None:
    options = {"prompt": PROMPT, **options}
    prompt = options.pop("prompt")
    attribute = inspect.unwrap(tla.attribute)  # without the tests' check of types
    with pytest.raises(InputError, match=message):
        attribute(model, prompt, transcoder(), **options)


@pytest.mark.usefixtures("unchecked_types")
def test_a_prompt_in_place_of_the_model_is_told_from_it(model: Any) -> None:
    for prompt in ("w1 w2", PROMPT, torch.tensor(PROMPT)):
        with pytest.raises(InputError, match=r"expected the model first.*in place of the model"):
            tla.attribute(prompt, model, transcoder())


def test_dictionaries_of_other_models(model: Any) -> None:
    wrong = transcoder()
    wrong.model_name = "gpt2-xl"
    with pytest.raises(MismatchError, match="trained on 'gpt2-xl', the model is 'tiny-gpt2'"):
        tla.attribute(model, PROMPT, wrong)
    shallow = tla.CrossLayerTranscoder(
        list(transcoder(window=1).layers[:2]), transcoder().activation, feature_input_hook="x"
    )
    with pytest.raises(MismatchError, match="n_layers=2"):
        tla.attribute(model, PROMPT, shallow)
    with pytest.raises(NotFoundError, match=r"did you mean 'ln2\.hook_normalized'"):
        tla.attribute(model, PROMPT, transcoder(read="ln2.hook_normalised"))
    with pytest.raises(NotFoundError, match="did you mean 'hook_mlp_out'"):
        tla.attribute(model, PROMPT, transcoder(write="hook_mlpout"))


def test_parallel_models_have_no_middle() -> None:
    with pytest.raises(NotFoundError, match="in parallel and has no hook_resid_mid"):
        tla.attribute(tiny("neox", RAW_HOSTS[0]), PROMPT, transcoder(read="hook_resid_mid"))


def test_models_that_cannot_be_traced() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear cannot be traced"):
        tla.attribute(torch.nn.Linear(2, 2), PROMPT, transcoder())
    with pytest.raises(NotFoundError, match="did you mean 'atlas'"):
        tla.load_model("atlass")


def test_broken_models_are_refused(model: Any) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.blocks[1].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(FormatError, match="NaN or infinite values"):
        tla.attribute(broken, PROMPT, transcoder())


def test_a_host_whose_activations_were_changed_is_refused(model: Any) -> None:
    """A hook that edits what attention adds makes the frozen model differ from the host."""

    def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return value * 2

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_attn_out", double)]),
        pytest.raises(ProofError, match="of block 1"),
    ):
        tla.attribute(model, PROMPT, transcoder())


def test_too_large_a_graph_says_how_to_ask_for_less(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(TooLargeError, match="max_features=2000 or coverage"):
        tla.attribute(model, PROMPT, transcoder())
