"""Do Atlas's MLPs hold the state of a city? Exchange their outputs between two prompts.

For pairs of states, asks for the capital of the state containing a city of the first, with the MLP
outputs of a city of the second put in place at the city, at the last position, or at both.

    python benchmarks/swap_mlps.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import torch
from torch import Tensor

import tl_attribution as tla
from tl_attribution.atlas.tables import STATES
from tl_attribution.hosts.protocols import Host
from tl_attribution.hosts.registry import host_for

PROMPT = "Fact: the capital of the state containing {} is"


def run(host: Host, ids: Tensor, outputs: Tensor, positions: Sequence[int]) -> int:
    """The answer with ``outputs`` [position, layer, d_model] patched in at some positions."""

    def replace(layer: int, x: Tensor, original: Tensor) -> Tensor:
        del x
        replaced = original.clone()
        replaced[list(positions)] = outputs[list(positions), layer]
        return replaced

    read, write = host.read_site("hook_resid_mid"), host.write_site("hook_mlp_out")
    return int(host.run_replacing_mlps(ids, read, write, replace)[-1].argmax())


def main() -> None:
    """Print how often the answer becomes the second state's capital, and how often it stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    arguments = parser.parse_args()
    host = host_for(tla.load_model("atlas"))
    pairs = [(a, b) for a in STATES for b in STATES if a is not b]
    chosen = random.Random(0).sample(pairs, arguments.pairs)
    prompts = {s.name: PROMPT.format(s.cities[0]) for s in STATES}
    ids = {s: torch.tensor(host.tokenize(p, with_bos=True)) for s, p in prompts.items()}
    sites = host.read_site("hook_resid_mid"), host.write_site("hook_mlp_out")
    outputs = {s: host.read_mlps(i[None], *sites).outputs[0] for s, i in ids.items()}
    capital = {s.name: host.tokenize(f" {s.capital}", with_bos=False)[-1] for s in STATES}
    last = len(next(iter(ids.values()))) - 1
    for where, positions in (("city", [last - 1]), ("last", [last]), ("both", [last - 1, last])):
        answers = [run(host, ids[a.name], outputs[b.name], positions) for a, b in chosen]
        swapped = sum(x == capital[b.name] for x, (_, b) in zip(answers, chosen, strict=True))
        stayed = sum(x == capital[a.name] for x, (a, _) in zip(answers, chosen, strict=True))
        n = len(chosen)
        print(f"{where:5} the other capital {swapped / n:6.1%}   unchanged {stayed / n:6.1%}")


if __name__ == "__main__":
    main()
