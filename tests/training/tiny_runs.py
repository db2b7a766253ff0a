"""A run that takes a second: a tiny model, text of its own words, few steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.models import HOSTS, tiny
from tl_attribution import TrainingConfig


def model() -> Any:
    """The tiny GPT-2 on the first host."""
    return tiny("gpt2", HOSTS[0])


def texts(count: int = 60, seed: int = 0) -> list[str]:
    """Sentences of the tiny models' words."""
    rng = random.Random(seed)
    return [
        " ".join(f"w{rng.randrange(45)}" for _ in range(rng.randint(4, 12))) for _ in range(count)
    ]


def config(**changes: Any) -> TrainingConfig:
    """20 steps of 64 tokens."""
    return TrainingConfig(
        **{
            "n_features": 32, "tokens": 1280, "batch_size": 64, "buffer_size": 256, "k": 4,
            "context_size": 16, "concat": False, "learning_rate": 3e-3, "checkpoint_every": 6,
            "log_every": 1, "dead_after": 300, "aux_k": 4, **changes,
        }
    )  # fmt: skip


def losses(out: Path) -> dict[int, float]:
    """The loss of each logged step."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records}
