"""Callbacks: what a run reports to its observers, and the callbacks that plugins register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """One logged step. Tuples have one entry per layer, over the step's batch."""

    step: int
    """Steps completed."""
    tokens: int
    """Tokens trained on."""
    loss: float
    nmse: tuple[float, ...]
    """Squared error divided by the outputs' variance (normalized mean squared error)."""
    l0: tuple[float, ...]
    """Active features per token."""
    dead: tuple[float, ...]
    """Share of features without an activation over the last ``dead_after`` tokens."""
    parts: dict[str, float]
    """Terms of the loss by name."""
    rate: float
    """Adam's learning rate."""
    k: int
    gradient_norm: float
    tokens_per_second: float
    seconds_left: float

    def flat(self) -> dict[str, float | int]:
        """All numbers by name: ``nmse`` is the mean over layers, ``nmse/layer_3`` one layer's."""
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
        """A summary in one short line, for a progress bar."""
        numbers = self.flat()
        return (
            f"loss {self.loss:.4f}  NMSE {numbers['nmse']:.3f}  L0 {numbers['l0']:.1f}  "
            f"dead {numbers['dead']:.1%}  {self.tokens_per_second:,.0f} tokens/s"
        )


@dataclass(frozen=True, eq=False)
class RunInfo:
    """The run that a callback observes. ``out``: its folder, or None if it writes no files;
    ``run_id``: stays the same when the run is resumed; ``resumed_at``: the step at which it
    resumes, 0 for a new run."""

    config: TrainingConfig
    model: str
    n_layers: int
    d_model: int
    out: Path | None
    run_id: str
    resumed_at: int


class Callback:
    """Observes a run, in the main process only. Subclass and override what you need; an error in a
    callback ends the run."""

    def on_start(self, run: RunInfo) -> None:
        """Before the first step."""

    def on_record(self, record: StepRecord) -> None:
        """Every ``log_every`` steps."""

    def on_density(self, step: int, density: torch.Tensor) -> None:
        """With every checkpoint: the share of tokens since the last one on which each feature was
        active, [layer, feature]."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """After a checkpoint was written."""

    def on_evaluation(self, step: int, evaluation: Any) -> None:
        """After the dictionary was evaluated: a
        :class:`~tl_attribution.evaluation.results.Evaluation`."""

    def on_end(self, folder: Path | None) -> None:
        """After the last step; ``folder`` contains the dictionary."""

    def on_stop(self, error: BaseException) -> None:
        """When the run ends early, by an error or an interrupt."""


@dataclass(frozen=True)
class Observers:
    """Who is informed of a run. ``on_progress`` is called with (tokens trained on, total tokens, a
    summary) after each record; ``evaluate`` with the dictionary at the end."""

    callbacks: Sequence[Callback] = ()
    on_progress: Callable[[int, int, str], None] | None = None
    evaluate: Callable[[Any], Any] | None = None


CallbackFactory = Callable[[str], Callback]
"""Makes a callback from the text after its name: ``my-project`` for ``wandb:my-project``."""

CALLBACKS: Registry[CallbackFactory] = Registry("callback")
"""Factories of callbacks by name, which selects one."""


def callback(spec: str) -> Callback:
    """Make the callback ``name`` or ``name:argument``, importing its library. Raises NotFoundError
    for an unknown name, and for a library that is not installed."""
    name, _, argument = spec.partition(":")
    if name not in CALLBACKS:
        plugin_loading.import_host(name)
    plugin_loading.import_hosts(until=lambda: name in CALLBACKS)
    if name not in CALLBACKS:
        raise NotFoundError(f"no callback {name!r}: {nearest(name, map(str, CALLBACKS))}")
    return CALLBACKS[name](argument)
