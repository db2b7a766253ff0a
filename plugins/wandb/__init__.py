"""Weights & Biases: offers the callback ``wandb:project`` or ``wandb:entity/project``, which logs a
training run. :func:`install` runs when wandb is imported."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_attribution.training.callbacks import Callback


def install(module: ModuleType) -> None:
    """Offer the callback. Installing twice changes nothing."""
    from tl_attribution.training.callbacks import register_callback

    register_callback("wandb", make)


def make(where: str) -> Callback:
    """A callback that logs to ``project`` or ``entity/project``; empty: where wandb's own settings
    say. Raises InputError for anything else."""
    from tl_attribution.plugins.wandb.callback import WandbCallback

    return WandbCallback(where)
