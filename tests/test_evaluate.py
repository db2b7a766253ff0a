"""``tla.evaluate``: every number against the formula, written out one context at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

import tl_attribution as tla
from tests.models import FAMILIES, HOSTS, N_LAYERS, tiny
from tests.random_dictionaries import FEATURES, KINDS, transcoder
from tl_attribution.dictionaries.activations import JumpReLU
from tl_attribution.evaluation.metrics import Moments, density
from tl_attribution.evaluation.results import DENSITY_EDGES, Evaluation, finite, mean
from tl_attribution.hosts.registry import host_for
from tl_attribution.training.contexts import Contexts

HOST = HOSTS[0]
CONTEXTS = [[1, 9, 20, 33, 9, 41, 7], [1, 30, 5, 6, 11], [8, 9, 10, 4, 40, 22]]
"""The last has no BOS, so no prefix."""
PROMPTS = [" w1 w2 w3", " w9 w4", " w30 w2 w2"]


def rows(contexts: list[list[int]] = CONTEXTS, padding: int = 0) -> Contexts:
    width = max(map(len, contexts)) + 2
    ids = [c + [padding] * (width - len(c)) for c in contexts]
    return Contexts(torch.tensor(ids), torch.tensor([len(c) for c in contexts]))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2", HOST)


@pytest.mark.hosts
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_perfect(family: str, host: str) -> None:
    model = tiny(family, host)
    found = tla.evaluate(model, tla.neurons(model), rows(), prompts=PROMPTS, graphs=1)
    assert found.tokens == 6 + 4 + 6
    assert found.contexts == 3
    for one in (*(layer.replaced for layer in found.layers), found.replaced):
        assert one.agreement == 1
        assert one.kl == pytest.approx(0, abs=1e-5)
        assert one.loss == pytest.approx(found.loss, abs=1e-4)
        assert one.loss_recovered == pytest.approx(1, abs=1e-2)
    for layer in found.layers:
        assert layer.nmse == pytest.approx(0, abs=1e-6)
        assert layer.explained_variance == pytest.approx(1, abs=1e-6)
    assert found.answers["prompts"].agreement == 1
    assert found.graphs is not None
    assert found.graphs.replacement.mean == pytest.approx(1, abs=1e-3)


@pytest.mark.hosts
@pytest.mark.parametrize(
    "kind", ["clt-skip", "clt-jumprelu", "clt-window", "per-layer", "clt-topk"]
)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_every_number_is_its_formula(family: str, kind: str) -> None:
    model = tiny(family, HOST)
    dictionary = KINDS[kind](model)
    found, slow = tla.evaluate(model, dictionary, rows()), Slow(model, dictionary)
    assert found.loss == pytest.approx(slow.loss(slow.own), rel=1e-5)
    assert_replaced(found.replaced, slow, slow.all_at_once(), slow.ablated(range(N_LAYERS)))
    for t, layer in enumerate(found.layers):
        y, error = slow.written[t], slow.written[t] - slow.made[t]
        deviation = ((y - y.mean(0)) ** 2).sum()
        assert layer.nmse == pytest.approx(float((error**2).sum() / deviation), rel=1e-5)
        explained = 1 - error.var(0).sum() / y.var(0).sum()
        assert layer.explained_variance == pytest.approx(float(explained), rel=1e-5)
        active = slow.acts[t] != 0
        assert layer.l0 == pytest.approx(float(active.double().sum(1).mean()))
        assert layer.dead == int((~active.any(0)).sum())
        shares = active.double().mean(0)
        logs = shares[shares > 0].log10().clamp(max=-1e-9)
        counts = [int(((a <= logs) & (logs < b)).sum()) for a, b in BINS]
        assert list(layer.density) == counts
        assert_replaced(layer.replaced, slow, slow.with_layer(t), slow.ablated([t]))
    assert found.nmse == pytest.approx(sum(one.nmse or 0 for one in found.layers) / N_LAYERS)
    assert found.dead_share == sum(one.dead for one in found.layers) / (N_LAYERS * FEATURES)


BINS = list(pairwise(DENSITY_EDGES))


def assert_replaced(found: Any, slow: Slow, logits: list[Any], ablated: list[Any]) -> None:
    own, made = (torch.cat([x[f:] for x, f in zip(xs, slow.first, strict=True)])
                 for xs in (slow.own, logits))  # fmt: skip
    assert found.agreement == pytest.approx(
        float((own.argmax(1) == made.argmax(1)).double().mean())
    )
    kl = kl_div(made.log_softmax(1), own.log_softmax(1), log_target=True, reduction="batchmean")
    assert found.kl == pytest.approx(float(kl), rel=1e-4)
    model, replaced, none = (slow.loss(x) for x in (slow.own, logits, ablated))
    assert found.loss == pytest.approx(replaced, rel=1e-5)
    assert found.ablated_loss == pytest.approx(none, rel=1e-5)
    assert found.loss_recovered == pytest.approx((none - replaced) / (none - model), rel=1e-2)


class Slow:
    """Dense, one context at a time, through public functions and the host's own runs."""

    def __init__(self, model: Any, dictionary: tla.Dictionary) -> None:
        self.host, self.dictionary, self.model = host_for(model), dictionary, model
        self.first = [int(c[0] == 1) for c in CONTEXTS]
        self.read = self.host.read_site(dictionary.feature_input_hook)
        self.write = self.host.write_site(dictionary.feature_output_hook)
        parts: list[tuple[torch.Tensor, ...]] = []
        self.own, self.per_context = [], []
        for c, first in zip(CONTEXTS, self.first, strict=True):
            written: list[torch.Tensor] = []
            self.own.append(self.run(c, lambda layer, x, out, w=written: w.append(out) or out))
            x = self.host.read(torch.tensor(c), self.read)
            acts = dictionary.encode(x)
            made = dictionary.decode(acts, x)
            self.per_context.append(made)
            parts.append(tuple(z[:, first:].double() for z in (torch.stack(written), made, acts)))
        self.written, self.made, self.acts = (
            torch.cat(column, 1) for column in zip(*parts, strict=True)
        )

    def run(self, ids: list[int], rule: Any) -> torch.Tensor:
        tokens = torch.tensor(ids)
        with torch.no_grad():
            return self.host.run_replacing_mlps(tokens, self.read, self.write, rule)

    def all_at_once(self) -> list[torch.Tensor]:
        return [tla.replacement_logits(self.model, c, self.dictionary) for c in CONTEXTS]

    def with_layer(self, t: int) -> list[torch.Tensor]:
        def rule(made: torch.Tensor, first: int) -> Any:
            return lambda layer, x, out: (
                torch.cat([out[:first], made[t][first:]]) if layer == t else out
            )

        every = zip(CONTEXTS, self.per_context, self.first, strict=True)
        return [self.run(c, rule(made, first)) for c, made, first in every]

    def ablated(self, layers: Any) -> list[torch.Tensor]:
        def rule(first: int) -> Any:
            return lambda layer, x, out: (
                torch.cat([out[:first], 0 * out[first:]]) if layer in layers else out
            )

        return [self.run(c, rule(first)) for c, first in zip(CONTEXTS, self.first, strict=True)]

    def loss(self, logits: list[torch.Tensor]) -> float:
        every = zip(logits, CONTEXTS, self.first, strict=True)
        parts = [(x[f:-1], torch.tensor(c)[f + 1 :]) for x, c, f in every]
        predicted, following = (torch.cat(column) for column in zip(*parts, strict=True))
        return float(cross_entropy(predicted.double(), following))


def silent(*, bias: float = 0.0, threshold: float | None = None) -> tla.CrossLayerTranscoder:
    """Decoders of zero, a constant decoder bias, and optionally features that never fire."""
    made = transcoder()
    layers = [
        replace(w, W_dec=0 * w.W_dec, b_dec=torch.full_like(w.b_dec, bias)) for w in made.layers
    ]
    at = torch.zeros(N_LAYERS, FEATURES)
    if threshold is not None:
        at[:, : FEATURES // 2] = threshold
    return tla.CrossLayerTranscoder(layers, JumpReLU(at), feature_input_hook="mlp.hook_in")


@pytest.mark.hosts
def test_a_dictionary_that_writes_nothing_recovers_nothing(model: Any) -> None:
    found = tla.evaluate(model, silent(), rows())
    for layer in found.layers:
        assert layer.explained_variance == pytest.approx(0, abs=1e-9)
        assert layer.replaced.loss == layer.replaced.ablated_loss
        assert layer.replaced.loss_recovered == 0
    assert found.replaced.loss_recovered == 0
    biased = tla.evaluate(model, silent(bias=3.0), rows())
    assert biased.explained_variance == pytest.approx(0, abs=1e-7), "the mean error is removed"
    assert (biased.nmse or 0) > (found.nmse or 0) >= 1


@pytest.mark.hosts
def test_dead_features_are_counted(model: Any) -> None:
    found = tla.evaluate(model, silent(threshold=1e9), rows())
    assert all(one.dead >= FEATURES // 2 for one in found.layers)
    assert all(sum(one.density) + one.dead == FEATURES for one in found.layers)
    assert found.summary["dead_share"] == found.dead_share >= 0.5


@pytest.mark.hosts
def test_padding_prefix_and_order_count_nowhere(model: Any) -> None:
    dictionary = transcoder()
    found = tla.evaluate(model, dictionary, rows())
    assert tla.evaluate(model, dictionary, rows(padding=50)) == found
    assert tla.evaluate(model, dictionary, rows(), contexts=2).tokens == 6 + 4
    with_single = Contexts(*(torch.cat([part, part[:1]]) for part in rows()))
    with_single.lengths[-1] = 1
    assert tla.evaluate(model, dictionary, with_single) == found


@pytest.mark.hosts
def test_a_dataset_is_opened_and_cut(model: Any) -> None:
    dictionary = transcoder()
    texts = [" w1 w2 w3 w4", " w5 w6", " w7 w8 w9"]
    found = tla.evaluate(model, dictionary, texts, concat=False, context=8)
    assert (found.contexts, found.tokens) == (3, 9)
    again = tla.evaluate(model, dictionary, texts, concat=False, context=8)
    assert again == found
    streamed = tla.evaluate(model, dictionary, iter(texts), concat=False, context=8, contexts=3)
    assert streamed.tokens == 9


@pytest.mark.hosts
def test_prompts_answers_and_graphs(model: Any) -> None:
    own = [int(model(model.to_tokens(p))[0, -1].argmax()) for p in PROMPTS]
    strings = [model.tokenizer.decode([i]) for i in own]
    assert all(s.startswith(" w") for s in strings), "choose prompts that a word follows"
    asked = [(PROMPTS[0], strings[0]), (PROMPTS[1], strings[1].strip()), PROMPTS[2]]
    dictionary = transcoder()
    groups = {"some": asked, "wrong": [(PROMPTS[0], "w47")]}
    found = tla.evaluate(model, dictionary, rows(), prompts=groups, graphs=3)
    made = [int(tla.replacement_logits(model, p, dictionary)[-1].argmax()) for p in PROMPTS]
    some = found.answers["some"]
    assert (some.prompts, some.answered, some.model_accuracy) == (3, 2, 1)
    assert some.agreement == sum(a == b for a, b in zip(own, made, strict=True)) / 3
    assert some.replacement_accuracy == sum(a == b for a, b in zip(own[:2], made, strict=False)) / 2
    assert found.answers["wrong"].model_accuracy == 0
    graphs = [tla.attribute(model, p, dictionary) for p in PROMPTS]
    scores = torch.tensor([g.scores().completeness for g in graphs], dtype=torch.float64)
    assert found.graphs is not None
    spread = found.graphs.completeness
    assert spread.mean == pytest.approx(float(scores.mean()))
    assert spread.median == pytest.approx(float(scores.median()))
    assert spread.lower == pytest.approx(float((scores.min() + scores.median()) / 2))
    assert found.graphs.residual.most == pytest.approx(max(g.residual() for g in graphs))


@pytest.mark.hosts
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"contexts": 0}, "contexts must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"graphs": 1}, "graphs=1 needs prompts"),
        ({"graphs": 4, "prompts": PROMPTS}, "more than the 3 prompts"),
        ({"graphs": -1}, "graphs must be 0 or more"),
        ({"prompts": " w1"}, "a list of at least one prompt, got ' w1'"),
        ({"prompts": []}, "a list of at least one prompt"),
        ({"prompts": [""]}, "the prompt is empty"),
        ({"prompts": [(" w1", "w2 w3")]}, "answer 'w2 w3' is not one token"),
        ({"prompts": [(" w1", "unheard")]}, "answer 'unheard' is not one token"),
        ({"dataset": []}, "empty"),
        ({"dataset": rows([[1]])}, "none of the dataset's 1 contexts has two tokens"),
        ({"dataset": rows([[1, 53]])}, "vocabulary"),
    ],
)
def test_bad_input_says_what_to_do(model: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(tla.InputError, match=said):
        tla.evaluate(model, transcoder(), **{"dataset": rows(), **settings})


@pytest.mark.hosts
def test_json_comes_back_and_holds_no_nan(model: Any, tmp_path: Path) -> None:
    found = tla.evaluate(model, transcoder(), rows(), prompts=PROMPTS, graphs=2)
    undefined = replace(found, replaced=replace(found.replaced, loss_recovered=None))
    for number, one in enumerate((found, undefined)):
        path = tmp_path / "new" / f"{number}.json"
        one.to_json(path)
        assert Evaluation.from_json(path) == one
        assert "NaN" not in path.read_text()
    assert '"replacement_loss_recovered": null' in path.read_text()
    assert all(isinstance(v, int | float | None) for v in found.summary.values())
    for content in ("", "[]", "{}", '{"tl_attribution_evaluation": 2}', path.read_text()[:-9]):
        path.write_text(content)
        with pytest.raises(tla.FormatError, match=r"1\.json is"):
            Evaluation.from_json(path)
    with pytest.raises(tla.NotFoundError, match="no evaluation at"):
        Evaluation.from_json(tmp_path / "none.json")


@pytest.mark.hosts
@pytest.mark.parametrize("many", [1, 4])
def test_a_plot_is_a_whole_file_and_always_the_same(model: Any, tmp_path: Path, many: int) -> None:
    found = tla.evaluate(model, transcoder(), rows())
    found = replace(found, layers=found.layers * many, model="$x$ <b>")
    for name in ("a.svg", "b.svg", "c.png"):
        found.plot(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert all(said in text for said in ("Normalised MSE", "all at once", "$x$ &lt;b&gt;"))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(tla.InputError, match=r"an \.svg or \.png file"):
        found.plot(tmp_path / "d.pdf")


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tl_attribution.evaluation.plot import check_plot

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(tla.NotFoundError, match=r"tl-attribution\[plots\]"):
        check_plot("a.png")


def test_sums_and_bins() -> None:
    moments = Moments(2)
    vectors = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])
    for part in vectors.split(2):
        moments.add(part)
    assert moments.deviation == pytest.approx(float(((vectors - vectors.mean(0)) ** 2).sum()))
    found = density(torch.tensor([1.0, 0.1, 0.0999, 1e-9], dtype=torch.float64))
    assert (found[-1], found[-4], found[-5], found[0], sum(found)) == (1, 1, 1, 1, 4)
    assert finite(math.nan) is None
    assert mean([1.0, None, 2.0]) == 1.5
    assert mean([None]) is None
