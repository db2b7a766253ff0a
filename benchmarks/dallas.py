"""The Dallas prompt on Atlas: how long its graph takes once everything is imported and loaded.

python benchmarks/dallas.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import THREADS

import tl_attribution as tla

PROMPT = "Fact: the capital of the state containing Dallas is"
LIMIT = 2.0


def main() -> None:
    """Trace the prompt several times with Atlas's own neurons; exits with 1 if the median is not
    below two seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(THREADS)
    model = tla.load_model("atlas")
    dictionary = tla.neurons(model)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        graph = tla.attribute(model, PROMPT, dictionary)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(graph)
    print("answer:", graph.metadata.answers[0])
    print("seconds, each run:", ", ".join(f"{s:.2f}" for s in seconds))
    print(f"median {median:.2f} s, {'below' if median < LIMIT else 'NOT below'} {LIMIT:g} s")
    raise SystemExit(median >= LIMIT)


if __name__ == "__main__":
    main()
