"""A training run in one process: its loop, its folder, what it tells those who watch."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import TrainingError
from tl_attribution.replacement.host import Host
from tl_attribution.replacement.prompts import resolve_prefix
from tl_attribution.training import callbacks as watching
from tl_attribution.training import checkpoint, scales
from tl_attribution.training.buffer import Batch, Buffer
from tl_attribution.training.callbacks import Callback, Record
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.data import open_rows, reader_for
from tl_attribution.training.distributed import DATA, FEATURES, Team
from tl_attribution.training.interrupts import interrupts
from tl_attribution.training.optimiser import Optimiser
from tl_attribution.training.trainee import Outcome, Trainee

READ_AT_ONCE = 4096
"""Tokens of one forward pass of the model."""
CALIBRATION = 16
"""Batches over which BatchTopK's threshold is averaged at the end."""
MEASURED = 16_384
"""Tokens over which normalisation is measured at the start, if the buffer holds as many."""
EXPLODED = 30.0
"""Times its running mean that a step's loss may reach."""
SMOOTH = 0.98
"""How slowly that mean follows."""


class _State(NamedTuple):
    """Numbers that go into a checkpoint besides tensors."""

    step: int
    buffer: dict[str, int]
    loss_mean: float | None
    thresholds: list[float] | None


class Run:
    """One training run in one process."""

    def __init__(
        self,
        model: Any,
        host: Host,
        dataset: Any,
        config: TrainingConfig,
        team: Team,
        out: Path | None,
    ) -> None:
        self.host, self.config, self.team, self.out = host, config, team, out
        self.watchers: list[Callback] = []
        self.on_progress: Callable[[int, int, str], None] | None = None
        self.evaluate: Callable[[Transcoder], Any] | None = None
        self.buffer = self._buffer(model, dataset)
        self.trainee = Trainee(config, host.n_layers, host.d_model, team)
        self.optimiser = Optimiser(self.trainee, team)
        shape = (host.n_layers, self.trainee.n_features)
        self.idle = torch.zeros(shape, dtype=torch.int64, device=team.device)
        """Tokens since each feature was last active."""
        self.fired = torch.zeros(shape, device=team.device)
        """How often each was active since the last checkpoint."""
        self.fired_over = 0
        self.scales = scales.none(host.n_layers, host.d_model)
        self._batch: Batch | None = None
        self.step, self.loss_mean, self.run_id = 0, None, uuid.uuid4().hex[:8]

    def _buffer(self, model: Any, dataset: Any) -> Buffer:
        c, host, team = self.config, self.host, self.team
        read = reader_for(
            model,
            host,
            host.read_site(c.feature_input_hook),
            host.write_site(c.feature_output_hook),
        )
        rows = open_rows(
            dataset,
            host,
            context=c.context_for(host),
            concat=c.concat,
            column=c.column,
            seed=c.seed,
        )
        lanes = team.lanes
        share = lanes // team.n_data
        sample = rows.rows(0, 1)
        read(sample)  # a model without MLPs says so before anything is written
        prefix = resolve_prefix(host, sample.ids[0, : int(sample.lengths[0])], None)
        return Buffer(
            read,
            rows,
            capacity=c.buffer,
            batch=c.batch,
            prefix=prefix,
            seed=c.seed,
            lanes=lanes,
            rows_at_once=max(1, READ_AT_ONCE // c.context_for(host)),
            lane_range=range(team.data_rank * share, (team.data_rank + 1) * share),
            device=team.device,
        )

    # The folder

    def open(self, resume: bool, overwrite: bool, data: str) -> None:
        """Start anew or from the last checkpoint."""
        saved = None
        if self.out is not None:
            about = {
                "format": checkpoint.FORMAT,
                "run_id": self.run_id,
                "config": self.config.to_dict(),
                "model": {"name": self.host.name, "n_layers": self.host.n_layers},
                "data": data,
            }
            if self.team.first:
                checkpoint.prepare(self.out, about, resume=resume, overwrite=overwrite)
            self.team.any(False)  # the others wait until the folder is ready
            self.run_id = checkpoint.read_run(self.out)["run_id"]
            saved = checkpoint.load(self.out, self.team.device) if resume else None
        if saved is None:
            self._begin()
        else:
            self._restore(*saved)
        if self.out is not None and self.team.first:
            checkpoint.trim_log(self.out, self.step)

    def _begin(self) -> None:
        if not self.config.normalise:
            self.scales = self._placed(self.scales)
            return
        count = min(math.ceil(MEASURED / self.config.batch), self.buffer.batches)
        held = self.buffer.state
        self.scales = self._placed(
            scales.measure((self.buffer.next() for _ in range(count)), self.team)
        )
        self.buffer.load_state(held)

    def _placed(self, found: scales.Scales) -> scales.Scales:
        return scales.Scales(*(t.to(self.team.device) for t in found))

    def _save(self) -> Path | None:
        """Write a checkpoint; every process takes part."""
        if self.out is None:
            return None
        tensors = {f"scales.{k}": v for k, v in self.scales._asdict().items()}
        tensors["idle"] = self.team.full(self.idle, 1)
        tensors |= self.optimiser.tensors()
        if not self.team.first:
            return None
        state = _State(self.step, self.buffer.state, self.loss_mean, self.trainee.last)
        return checkpoint.save(self.out, self.step, tensors, state._asdict())

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        saved = _State(**state)
        self.step, self.loss_mean = saved.step, saved.loss_mean
        self.scales = scales.Scales(*(tensors[f"scales.{k}"] for k in scales.Scales._fields))
        self.idle = self.team.local(tensors["idle"], 1)
        self.trainee.last = saved.thresholds
        self.optimiser.load(tensors, self.step)
        self.buffer.load_state(saved.buffer)

    # The loop

    def go(self) -> Transcoder:
        """Train to the end. Ends early, leaving a checkpoint, when interrupted."""
        about = watching.About(
            self.config,
            self.host.name,
            self.host.n_layers,
            self.host.d_model,
            self.out,
            self.run_id,
            self.step,
        )
        self._tell(lambda w: w.on_start(about))
        try:
            with interrupts() as stopped:
                self._steps(stopped)
            return self._finish()
        except BaseException as error:
            self._tell(lambda w, e=error: w.on_stop(e))
            raise

    def _steps(self, stopped: threading.Event) -> None:
        c, start, first = self.config, time.monotonic(), self.step
        while self.step < c.steps:
            dead = self.idle >= c.dead_after
            batch = self._next()
            outcome, norm = self._step(batch, dead)
            self._note(outcome, batch.inputs.shape[1])
            if self.step % c.log_every == 0 or self.step == c.steps:
                pace = (self.step - first) / (time.monotonic() - start)
                self._record(batch, outcome, norm, pace)
            if self.step % c.checkpoint_every == 0 or self.step == c.steps:
                self._checkpoint()
            if self.team.any(stopped.is_set()):
                if self.step % c.checkpoint_every and self.step < c.steps:
                    self._checkpoint()
                raise KeyboardInterrupt(f"stopped at step {self.step}: {checkpoint.kept(self.out)}")

    def _next(self) -> Batch:
        """The next batch in normalised units, in the place of the last one."""
        self._batch = self.scales.normalise(self.buffer.next(), self._batch)
        return self._batch

    def _step(self, batch: Batch, dead: Tensor) -> tuple[Outcome, float]:
        outcome = self.trainee(batch, self.step, dead)
        loss = float(self.team.total(outcome.loss, DATA)) / self.team.n_data
        self._sane(loss)
        norm = self.optimiser.update(outcome.loss, self.step)
        if not math.isfinite(norm):
            self._broken(f"the gradient's norm is {norm}")
        self.step += 1
        return outcome._replace(loss=torch.tensor(loss)), norm

    def _sane(self, loss: float) -> None:
        mean = self.loss_mean
        if not math.isfinite(loss):
            self._broken(f"the loss is {loss}")
        if mean is not None and loss > EXPLODED * mean:
            self._broken(f"the loss rose from about {mean:.3g} to {loss:.3g} in one step")
        self.loss_mean = loss if mean is None else SMOOTH * mean + (1 - SMOOTH) * loss

    def _broken(self, what: str) -> None:
        raise TrainingError(
            f"step {self.step + 1}: {what}; {checkpoint.kept(self.out)}. Try a lower "
            f"learning_rate (it is {self.config.peak_rate:.2g}) or a longer warm-up"
        )

    def _note(self, outcome: Outcome, tokens: int) -> None:
        count = self.team.total(outcome.active, DATA)
        over = tokens * self.team.n_data
        self.idle = torch.where(count > 0, torch.zeros_like(self.idle), self.idle + over)
        self.fired += count
        self.fired_over += over

    def _record(self, batch: Batch, outcome: Outcome, norm: float, steps_a_second: float) -> None:
        c, team = self.config, self.team
        variance = batch.outputs.var(1, correction=0).mean(1)
        sums = team.total(torch.stack([outcome.error, variance]), DATA)
        count = team.total(outcome.active.sum(1), DATA, FEATURES)
        dead = team.total((self.idle >= c.dead_after).sum(1).float(), FEATURES)
        if not team.first:
            return
        record = Record(
            step=self.step,
            tokens=self.step * c.batch,
            loss=float(outcome.loss),
            nmse=tuple((sums[0] / sums[1].clamp(min=1e-12)).tolist()),
            l0=tuple((count / c.batch).tolist()),
            dead=tuple((dead / c.n_features).tolist()),
            parts={name: float(part) for name, part in outcome.parts.items()},
            rate=c.rate_at(self.step - 1),
            k=c.k_at(self.step - 1),
            gradient_norm=norm,
            tokens_per_second=steps_a_second * c.batch,
            seconds_left=(c.steps - self.step) / steps_a_second,
        )
        if self.out is not None:
            with (self.out / checkpoint.LOG).open("a") as log:
                log.write(json.dumps(record.flat()) + "\n")
        self._tell(lambda w: w.on_record(record))
        if self.on_progress is not None:
            self.on_progress(record.tokens, c.steps * c.batch, record.line())

    def _checkpoint(self) -> None:
        folder = self._save()
        density = self.team.full(self.fired, 1) / max(1, self.fired_over)
        self.fired, self.fired_over = torch.zeros_like(self.fired), 0
        self._tell(lambda w: w.on_density(self.step, density))
        if folder is not None:
            self._tell(lambda w: w.on_checkpoint(self.step, folder))

    def _finish(self) -> Transcoder:
        made = self.trainee.to_dictionary(self.scales, self._calibrated(), self.host.name)
        folder = None
        if self.out is not None and self.team.first:
            folder = self.out / checkpoint.DICTIONARY
            made.save(folder, overwrite=True)  # the run's folder: notes in it are kept
        if self.evaluate is not None:
            found = self.evaluate(made)
            self._tell(lambda w: w.on_evaluation(self.step, found))
        self._tell(lambda w: w.on_end(folder))
        return made

    @torch.no_grad()
    def _calibrated(self) -> Tensor:
        """BatchTopK's threshold of each layer, the mean over some batches with the last weights."""
        if self.config.activation != "batchtopk":
            return torch.zeros(self.host.n_layers, device=self.team.device)
        found = [self.trainee.thresholds(self._next().inputs) for _ in range(CALIBRATION)]
        return torch.stack(found).mean(0)

    def _tell(self, what: Callable[[Callback], None]) -> None:
        for watcher in self.watchers:
            what(watcher)
