"""One training run as one wandb run, under the id it keeps when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import wandb

from tl_attribution.evaluation.results import Evaluation
from tl_attribution.plugins.wandb import tables
from tl_attribution.plugins.wandb.runs import address, going_on, open_run
from tl_attribution.training.callbacks import Callback, RunInfo, StepRecord

INTERRUPTED, RESUMED = "interrupted", "resumed"
"""Tags. The second takes the first one's place: wandb sends no list of tags that is empty."""

STOPPED = "stopped_by"
"""In the summary: the kind of error that ended the run early."""


class WandbCallback(Callback):
    """Logs to ``project`` or ``entity/project``, online, offline or not at all as WANDB_MODE says.

    Offline, only the last checkpoint of a session is kept as an artifact, since every artifact is a
    copy on this machine until it is synced.
    """

    def __init__(self, where: str = "") -> None:
        self.entity, self.project = address(where)
        self._run: wandb.Run | None = None
        self._about: RunInfo | None = None
        self._unsent: tuple[int, Path] | None = None
        self._last = 0

    def on_start(self, about: RunInfo) -> None:
        """Open the run, or go on with it. Raises InputError if wandb cannot."""
        run = open_run(
            self.entity,
            self.project,
            about.out,
            id=about.run_id,
            resume="allow",
            config=_facts(about),
        )
        self._about, self._last = about, about.resumed_at
        if run.disabled:
            return
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        if about.resumed_at:
            self._retag(run, INTERRUPTED, RESUMED)
            if STOPPED in run.summary.keys():  # noqa: SIM118  # it is no mapping
                del run.summary[STOPPED]
        self._run = run

    def on_record(self, record: StepRecord) -> None:
        """Log every number of the record."""
        self._log(record.step, record.flat())

    def on_density(self, step: int, density: torch.Tensor) -> None:
        """Log a histogram a layer of log10 of the density; features that were never active are no
        part of it, their share is ``silent``."""
        if self._run is not None:
            self._log(step, tables.density(density))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Log the summary's numbers, and tables of everything else."""
        if self._run is not None:
            self._log(step, tables.evaluation(evaluation))

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """Upload the checkpoint as the newest version of its artifact; offline, keep it in mind."""
        self._unsent = (step, folder)
        if self._run is not None and not self._run.offline:
            self._send_checkpoint(self._run)

    def on_end(self, folder: Path | None) -> None:
        """Upload the dictionary and close the run."""
        run = self._run
        if run is None:
            return
        self._send_checkpoint(run)
        if folder is not None:
            self._send(run, "dictionary", self._last, folder)
        self._finish(0)

    def on_stop(self, error: BaseException) -> None:
        """Close the run: as failed after an error, as ``interrupted`` after an interrupt."""
        run, interrupted = self._run, isinstance(error, KeyboardInterrupt)
        if run is None:
            return
        try:
            if interrupted:
                self._retag(run, RESUMED, INTERRUPTED)
            run.summary[STOPPED] = type(error).__name__
            self._send_checkpoint(run)
        finally:
            self._finish(0 if interrupted else 1)

    def _log(self, step: int, row: Mapping[str, object]) -> None:
        run, about = self._run, self._about
        if run is None or about is None:
            return
        self._last = max(self._last, step)
        # A resumed run repeats the steps since its checkpoint, which the server has already.
        if step >= run.starting_step:
            with going_on(f"what it was told at step {step}"):
                run.log({"tokens": step * about.config.batch, **row}, step=step)

    def _send_checkpoint(self, run: wandb.Run) -> None:
        if self._unsent is not None and self._send(run, "checkpoint", *self._unsent):
            self._unsent = None

    def _send(self, run: wandb.Run, kind: str, step: int, folder: Path) -> bool:
        """Log a folder as an artifact, and say whether wandb took it. The files are copied first:
        checkpoints make room for newer ones while they may still be on their way."""
        with going_on(f"the {kind} in {folder}"):
            artifact = wandb.Artifact(f"{run.id}-{kind}", kind, metadata={"step": step})
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = file.relative_to(folder).as_posix()
                artifact.add_file(str(file), name, skip_cache=True, policy="mutable")
            run.log_artifact(artifact, aliases=["latest", f"step-{step}"])
            return True
        return False

    @staticmethod
    def _retag(run: wandb.Run, old: str, new: str) -> None:
        run.tags = (*(tag for tag in run.tags or () if tag not in (old, new)), new)

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)


def _facts(about: RunInfo) -> dict[str, object]:
    model = {"model": about.model, "n_layers": about.n_layers, "d_model": about.d_model}
    return about.config.to_dict() | model
