"""The training loop of one process: steps, checkpoints, records, and the dictionary at the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import TrainingError
from tl_attribution.training import normalization
from tl_attribution.training.activations import ModelSites
from tl_attribution.training.buffer import Batch, Buffer
from tl_attribution.training.callbacks import Callback, Observers, RunInfo, StepRecord
from tl_attribution.training.distributed import DATA, FEATURES
from tl_attribution.training.interrupts import interrupts
from tl_attribution.training.model import StepResult, TrainingTranscoder
from tl_attribution.training.normalization import Normalization
from tl_attribution.training.optimizer import Optimizer
from tl_attribution.training.run_folder import RunFolder

CALIBRATION_BATCHES = 16
"""Batches over which BatchTopK's thresholds are averaged at the end."""
NORMALIZATION_TOKENS = 16_384
"""Tokens over which the normalization is measured at the start, if the buffer holds as many."""
MAX_LOSS_RATIO = 30.0
"""Ratio of a step's loss to its running mean above which the run stops."""
LOSS_DECAY = 0.98
"""Decay of the running mean of the loss."""


class _State(NamedTuple):
    """The state in a checkpoint besides tensors."""

    step: int
    buffer: dict[str, int]
    loss_mean: float | None
    thresholds: list[float] | None


class Trainer:
    """Trains a transcoder in one process, from the start or from the folder's last checkpoint.

    ``buffer`` serves the activations of the model at ``sites``. Raises FormatError for a checkpoint
    that cannot be read.
    """

    def __init__(
        self,
        sites: ModelSites,
        buffer: Buffer,
        transcoder: TrainingTranscoder,
        folder: RunFolder,
        observers: Observers,
    ) -> None:
        self.model_name = sites.host.name
        self.buffer, self.transcoder, self.folder = buffer, transcoder, folder
        self.config, self.grid = transcoder.config, transcoder.grid
        self.observers = observers if self.grid.is_main else Observers()
        self.optimizer = Optimizer(transcoder, self.grid)
        shape = (transcoder.n_layers, transcoder.n_features)
        self.tokens_inactive = torch.zeros(shape, dtype=torch.int64, device=self.grid.device)
        """Tokens since each feature was last active, [layer, feature]."""
        self.times_active = torch.zeros(shape, device=self.grid.device)
        """Tokens since the last checkpoint on which each feature was active, [layer, feature]."""
        self.tokens_counted = 0
        """Tokens since the last checkpoint."""
        self._batch: Batch | None = None
        self.step = 0
        self.loss_mean: float | None = None
        saved = folder.load(self.grid.device)
        self.normalization = self._measured() if saved is None else self._restored(*saved)
        self.first_step = self.step
        if self.grid.is_main:
            folder.trim_log(self.step)

    # Start and resume

    def _measured(self) -> Normalization:
        """The normalization measured on the first batches, which are then served again."""
        t = self.transcoder
        if not self.config.normalize:
            return normalization.identity(t.n_layers, t.d_model).to(self.grid.device)
        batches = math.ceil(NORMALIZATION_TOKENS / self.config.batch_size)
        state = self.buffer.state
        measured = normalization.measure(
            (self.buffer.next() for _ in range(min(batches, self.buffer.batches))), self.grid
        )
        self.buffer.load_state(state)
        return measured.to(self.grid.device)

    def _restored(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> Normalization:
        """The normalization of a checkpoint, from which everything else is restored."""
        saved = _State(**state)
        self.step, self.loss_mean = saved.step, saved.loss_mean
        self.tokens_inactive = self.grid.local(tensors["idle"], 1)
        self.transcoder.last_thresholds = saved.thresholds
        self.optimizer.load(tensors, self.step)
        self.buffer.load_state(saved.buffer)
        return Normalization(*(tensors[f"scales.{name}"] for name in Normalization._fields))

    def _save(self) -> Path | None:
        """Write a checkpoint; every process must call it."""
        if self.folder.path is None:
            return None
        tensors = {f"scales.{k}": v for k, v in self.normalization._asdict().items()}
        tensors["idle"] = self.grid.full(self.tokens_inactive, 1)
        tensors |= self.optimizer.tensors()
        if not self.grid.is_main:
            return None
        thresholds = self.transcoder.last_thresholds
        state = _State(self.step, self.buffer.state, self.loss_mean, thresholds)
        return self.folder.save(self.step, tensors, state._asdict())

    # The loop

    def fit(self) -> Transcoder:
        """Train to the end and return the dictionary. An interrupt raises KeyboardInterrupt after
        the current step, with a checkpoint; a loss that diverges raises TrainingError."""
        info = self._run_info()
        self._notify(lambda callback: callback.on_start(info))
        try:
            with interrupts() as stop:
                self._train(stop)
            return self._finish()
        except BaseException as error:
            self._notify(lambda callback, error=error: callback.on_stop(error))
            raise

    def _run_info(self) -> RunInfo:
        return RunInfo(
            config=self.config,
            model=self.model_name,
            n_layers=self.transcoder.n_layers,
            d_model=self.transcoder.d_model,
            out=self.folder.path,
            run_id=self.folder.run_id,
            resumed_at=self.first_step,
        )

    def _train(self, stop: threading.Event) -> None:
        c, start = self.config, time.monotonic()
        while self.step < c.steps:
            dead = self.tokens_inactive >= c.dead_after
            batch = self._next_batch()
            result, norm = self._take_step(batch, dead)
            self._count_active(result, batch.inputs.shape[1])
            last = self.step == c.steps
            if last or self.step % c.log_every == 0:
                speed = (self.step - self.first_step) / (time.monotonic() - start)
                self._log(batch, result, norm, speed)
            due = last or self.step % c.checkpoint_every == 0
            if due:
                self._checkpoint()
            if self.grid.any(stop.is_set()):
                if not due:
                    self._checkpoint()
                raise KeyboardInterrupt(
                    f"stopped at step {self.step}: {self.folder.last_checkpoint()}"
                )

    def _next_batch(self) -> Batch:
        """The next batch in normalized units, written over the last one."""
        self._batch = self.normalization.normalize(self.buffer.next(), self._batch)
        return self._batch

    def _take_step(self, batch: Batch, dead: Tensor) -> tuple[StepResult, float]:
        result = self.transcoder(batch, self.step, dead)
        loss = float(self.grid.sum(result.loss, DATA)) / self.grid.n_data
        self._check_loss(loss)
        norm = self.optimizer.update(result.loss, self.step)
        if not math.isfinite(norm):
            raise self._divergence(f"the gradient's norm is {norm}")
        self.step += 1
        return result._replace(loss=torch.tensor(loss)), norm

    def _check_loss(self, loss: float) -> None:
        mean = self.loss_mean
        if not math.isfinite(loss):
            raise self._divergence(f"the loss is {loss}")
        if mean is not None and loss > MAX_LOSS_RATIO * mean:
            raise self._divergence(f"the loss rose from about {mean:.3g} to {loss:.3g} in one step")
        self.loss_mean = loss if mean is None else LOSS_DECAY * mean + (1 - LOSS_DECAY) * loss

    def _divergence(self, problem: str) -> TrainingError:
        return TrainingError(
            f"step {self.step + 1}: {problem}; {self.folder.last_checkpoint()}. Try a lower "
            f"learning_rate (it is {self.config.peak_learning_rate:.2g}) or a longer warmup"
        )

    def _count_active(self, result: StepResult, tokens: int) -> None:
        counts = self.grid.sum(result.active, DATA)
        total = tokens * self.grid.n_data
        inactive = self.tokens_inactive + total
        self.tokens_inactive = torch.where(counts > 0, torch.zeros_like(inactive), inactive)
        self.times_active += counts
        self.tokens_counted += total

    # Records, checkpoints and the result

    def _log(self, batch: Batch, result: StepResult, norm: float, steps_per_second: float) -> None:
        c, grid = self.config, self.grid
        variance = batch.outputs.var(1, correction=0).mean(1)
        error, variance = grid.sum(torch.stack([result.error, variance]), DATA)
        active = grid.sum(result.active.sum(1), DATA, FEATURES)
        dead = grid.sum((self.tokens_inactive >= c.dead_after).sum(1).float(), FEATURES)
        if not grid.is_main:
            return
        record = StepRecord(
            step=self.step,
            tokens=self.step * c.batch_size,
            loss=float(result.loss),
            nmse=tuple((error / variance.clamp(min=1e-12)).tolist()),
            l0=tuple((active / c.batch_size).tolist()),
            dead=tuple((dead / c.n_features).tolist()),
            parts={name: float(part) for name, part in result.parts.items()},
            rate=c.learning_rate_at(self.step - 1),
            k=c.k_at(self.step - 1),
            gradient_norm=norm,
            tokens_per_second=steps_per_second * c.batch_size,
            seconds_left=(c.steps - self.step) / steps_per_second,
        )
        self.folder.log(record)
        self._notify(lambda callback: callback.on_record(record))
        if self.observers.on_progress is not None:
            total = c.steps * c.batch_size
            self.observers.on_progress(record.tokens, total, record.line())

    def _checkpoint(self) -> None:
        folder = self._save()
        density = self.grid.full(self.times_active, 1) / max(1, self.tokens_counted)
        self.times_active, self.tokens_counted = torch.zeros_like(self.times_active), 0
        self._notify(lambda callback: callback.on_density(self.step, density))
        if folder is not None:
            self._notify(lambda callback: callback.on_checkpoint(self.step, folder))

    def _finish(self) -> Transcoder:
        dictionary = self.transcoder.to_dictionary(
            self.normalization, self._calibrated_thresholds(), self.model_name
        )
        folder = self.folder.save_dictionary(dictionary) if self.grid.is_main else None
        if self.observers.evaluate is not None:
            evaluation = self.observers.evaluate(dictionary)
            self._notify(lambda callback: callback.on_evaluation(self.step, evaluation))
        self._notify(lambda callback: callback.on_end(folder))
        return dictionary

    @torch.no_grad()
    def _calibrated_thresholds(self) -> Tensor:
        """BatchTopK's threshold of each layer, the mean over some batches with the last weights."""
        t = self.transcoder
        if self.config.activation != "batchtopk":
            return torch.zeros(t.n_layers, device=self.grid.device)
        batches = range(CALIBRATION_BATCHES)
        return torch.stack([t.thresholds(self._next_batch().inputs) for _ in batches]).mean(0)

    def _notify(self, event: Callable[[Callback], None]) -> None:
        for callback in self.observers.callbacks:
            event(callback)
