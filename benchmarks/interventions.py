"""A thousand interventions on the Dallas prompt: how long they take once everything is loaded.

python benchmarks/interventions.py
"""

from __future__ import annotations

import argparse
import time
from itertools import islice, product
from typing import Any

import torch
from common import THREADS

import tl_attribution as tla

PROMPT = "Fact: the capital of the state containing Dallas is"
LIMIT = 10.0
FACTORS = (0.0, 2.0, -1.0, 0.5, 4.0, -3.0, 1.5, 6.0, 0.25, -2.0)
MODES: dict[str, dict[str, Any]] = {
    "direct": {"propagation": "direct"},
    "constrained": {"propagation": "constrained", "layers": None},
    "iterative": {},
    "iterative, attention free": {"freeze_attention": False},
    "iterative, replacement": {"mlps": "replacement"},
}


def main() -> None:
    """Time every mode; exits with 1 unless all are below ten seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--interventions", type=int, default=1000)
    n_interventions = parser.parse_args().interventions
    torch.set_num_threads(THREADS)
    model, dictionary = tla.load_model("atlas"), tla.load_dictionary("atlas")
    graph = tla.attribute(model, PROMPT, dictionary)
    features = [n for n in graph.nodes if n.kind == "feature"]
    pairs = islice(product(FACTORS, features), n_interventions)
    groups = [tla.supernode([node], factor) for factor, node in pairs]
    answer, slow = graph.metadata.answers[0], []
    for name, mode in MODES.items():
        if mode.get("propagation") == "constrained":
            mode = {**mode, "layers": range(graph.metadata.n_layers)}
        start, busy = time.perf_counter(), time.process_time()
        runs = tla.intervene_each(model, graph, dictionary, groups, **mode)
        kept = sum(int(run.logits[-1].argmax()) == answer.token_id for run in runs)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        slow += [name] * (seconds >= LIMIT)
        share = kept / len(groups)
        print(
            f"{name:26} {len(groups)} in {seconds:5.2f} s ({busy:.2f} s of processor time); "
            f"{answer.token} stays {share:.1%}"
        )
    print(f"NOT below {LIMIT:g} s: {', '.join(slow)}" if slow else f"all below {LIMIT:g} s")
    raise SystemExit(bool(slow))


if __name__ == "__main__":
    main()
