"""Every CLT trainer on the same work in the same run: tokens a second, memory, and quality.

    python benchmarks/clt_trainers/compare.py --peer clt_training=.venv-clt-training/bin/python ...

Speed is measured on noise (it does not depend on values), in turn and ``--repeat`` times, because
machines are shared; the median is shown. With ``--activations FILE`` (made by ``collect.py``) every
trainer also learns the same activations for ``--quality-steps`` steps, once for each rate in
``--rates`` and its own default, and its best normalized squared error on held-out tokens counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tl_attribution import kernels

HERE = Path(__file__).parent
SHAPE = ("layers", "width", "features", "k", "batch", "threads")


def run(python: str, name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """One trainer's line, or None if it failed. Its name may end in options of its script."""
    script, *extra = name.split(":")
    command = [python, str(HERE / f"{script}.py")]
    for option, value in [*options.items(), *(text.split("=") for text in extra)]:
        command += [f"--{option}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    if done.returncode:
        print(f"{name} failed:\n{done.stderr[-800:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def matmul_speed(threads: int) -> tuple[float, float]:
    """FLOP a second of a large float32 product here and now, by PyTorch's own product and by the
    library that serves this processor best."""
    torch.set_num_threads(threads)
    a, b, out = (torch.randn(1024, 1024) for _ in range(3))
    speeds = []
    for multiply in (torch.mm, lambda a, b: kernels.linear(a, b, out)):
        best = 1e9
        for _ in range(10):
            start = time.perf_counter()
            multiply(a, b)
            best = min(best, time.perf_counter() - start)
        speeds.append(2 * 1024**3 / best)
    return speeds[0], speeds[1]


def flops(shape: dict[str, Any]) -> float:
    """What one token must cost: dense encoders forward; active entries of the encoders' gradient,
    and of the decoders forward and twice backward."""
    layers, width, features, k = (shape[n] for n in ("layers", "width", "features", "k"))
    written = (layers + 1) / 2
    return 2 * width * (layers * features + k * (1 + 3 * written))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = (4, 128, 1024, 32, 1024, 1)
    for name, value in zip(SHAPE, defaults, strict=True):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], help="NAME[:OPTION=VALUE]=PYTHON")
    parser.add_argument("--activations", type=Path)
    parser.add_argument("--quality-steps", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3, 1e-2])
    args = parser.parse_args()
    shape = {name: getattr(args, name) for name in SHAPE}
    trainers = {"ours": sys.executable} | dict(p.rsplit("=", 1) for p in args.peer)
    speed(trainers, shape, args.steps, args.repeat)
    if args.activations:
        rates = [None, *args.rates]
        quality(trainers, shape, args.quality_steps, args.activations.resolve(), rates)


def speed(trainers: dict[str, str], shape: dict[str, Any], steps: int, repeat: int) -> None:
    """Tokens a second of every trainer, one after the other, several times."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in trainers}
    peak = []
    for _ in range(repeat):
        for name, python in trainers.items():
            result = run(python, name, {**shape, "steps": steps})
            results[name] += [result] if result else []
        peak.append(matmul_speed(shape["threads"]))
    print(" ".join(f"{k}={v}" for k, v in shape.items()), f"steps={steps} repeat={repeat}")
    ours = statistics.median(r["tokens_per_second"] for r in results["ours"])
    for name, lines in results.items():
        if lines:
            pace = statistics.median(r["tokens_per_second"] for r in lines)
            rss = max(r["peak_rss_gb"] for r in lines)
            print(f"{name:30} {pace:10,.0f} tokens/s  ×{ours / pace:5.2f}  {rss:5.2f} GB")
    pytorch, best = (statistics.median(speeds) for speeds in zip(*peak, strict=True))
    share = ours * flops(shape) / max(pytorch, best)
    print(f"ours reaches {share:.0%} of the machine's matmul speed, counting what must be computed")
    print(f"which is {best / 1e9:.0f} GFLOP/s (PyTorch's own product: {pytorch / 1e9:.0f})")


def quality(
    trainers: dict[str, str],
    shape: dict[str, Any],
    steps: int,
    activations: Path,
    rates: list[float | None],
) -> None:
    """Each trainer's best error at equal tokens and equal active features."""
    for name, python in trainers.items():
        best: tuple[float, Any] | None = None
        for rate in rates:
            options = {**shape, "steps": steps, "activations": activations}
            result = run(python, name, options | ({"lr": rate} if rate else {}))
            if result and result["nmse"] is not None and (best is None or result["nmse"] < best[0]):
                best = (result["nmse"], {**result, "rate": rate})
        if best:
            rate = best[1]["rate"] or "its default"
            print(f"{name:30} NMSE {best[0]:.4f}  L0 {best[1]['l0']:.1f}  rate {rate}")


if __name__ == "__main__":
    main()
