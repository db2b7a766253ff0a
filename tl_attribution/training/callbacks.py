"""Watching a run: what a callback is told, and the callbacks that plugins offer by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_attribution import plugin_loading
from tl_attribution.errors import NotFoundError, nearest
from tl_attribution.registry import Registry
from tl_attribution.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class StepRecord:
    """One logged step. Shares and errors are over the step's batch; one entry a layer in tuples."""

    step: int
    """Steps done."""
    tokens: int
    """Tokens trained on."""
    loss: float
    nmse: tuple[float, ...]
    """Squared error over the outputs' variance."""
    l0: tuple[float, ...]
    """Active features a token."""
    dead: tuple[float, ...]
    """Share of features not active over the last ``dead_after`` tokens."""
    parts: dict[str, float]
    """Terms of the loss by name."""
    rate: float
    """Adam's learning rate."""
    k: int
    gradient_norm: float
    tokens_per_second: float
    seconds_left: float

    def flat(self) -> dict[str, float | int]:
        """Every number under a name of its own: ``nmse`` is the mean, ``nmse/layer_3`` one."""
        out: dict[str, float | int] = {"step": self.step, "tokens": self.tokens, "loss": self.loss}
        for name in ("nmse", "l0", "dead"):
            values = getattr(self, name)
            out[name] = sum(values) / len(values)
            out |= {f"{name}/layer_{i}": v for i, v in enumerate(values)}
        out |= {f"loss/{name}": v for name, v in self.parts.items()}
        for name in ("rate", "k", "gradient_norm", "tokens_per_second", "seconds_left"):
            out[name] = getattr(self, name)
        return out

    def line(self) -> str:
        """The record in one short line, for a progress bar."""
        all_ = self.flat()
        return (
            f"loss {self.loss:.4f}  NMSE {all_['nmse']:.3f}  L0 {all_['l0']:.1f}  "
            f"dead {all_['dead']:.1%}  {self.tokens_per_second:,.0f} tokens/s"
        )


@dataclass(frozen=True, eq=False)
class RunInfo:
    """The run a callback watches. ``out`` is None for one that keeps nothing; ``run_id`` stays the
    same when it is resumed; ``resumed_at`` is the step it goes on from, 0 for a new one."""

    config: TrainingConfig
    model: str
    n_layers: int
    d_model: int
    out: Path | None
    run_id: str
    resumed_at: int


class Callback:
    """Told what happens in a run, in the first process only. Subclass and override what you need;
    an error in a callback ends the run."""

    def on_start(self, about: RunInfo) -> None:
        """Before the first step."""

    def on_record(self, record: StepRecord) -> None:
        """Every ``log_every`` steps."""

    def on_density(self, step: int, density: torch.Tensor) -> None:
        """With every checkpoint: how often each feature was active since the last one,
        [layer, feature], as a share of tokens."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """After a checkpoint was written whole."""

    def on_evaluation(self, step: int, evaluation: Any) -> None:
        """After the dictionary was evaluated: a
        :class:`~tl_attribution.evaluation.results.Evaluation`."""

    def on_end(self, folder: Path | None) -> None:
        """After the last step; ``folder`` holds the dictionary."""

    def on_stop(self, error: BaseException) -> None:
        """When the run ends early: an error, or an interrupt."""


CallbackFactory = Callable[[str], Callback]
"""A callback from the text after its name: ``wandb:my-project`` calls it with ``my-project``."""

CALLBACKS: Registry[CallbackFactory] = Registry("callback")
"""Factories of callbacks by name, which selects one."""


def callback(spec: str) -> Callback:
    """The callback of ``name`` or ``name:argument``. A plugin's library is imported when its
    callback is asked for. Raises NotFoundError for an unknown name, or a library to install."""
    name, _, argument = spec.partition(":")
    if name not in CALLBACKS:
        plugin_loading.import_host(name)
    plugin_loading.import_hosts(until=lambda: name in CALLBACKS)
    if name not in CALLBACKS:
        raise NotFoundError(f"no callback {name!r}: {nearest(name, map(str, CALLBACKS))}")
    return CALLBACKS[name](argument)
