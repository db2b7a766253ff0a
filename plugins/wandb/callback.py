"""A callback that logs a training run as one wandb run, also when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import wandb

from tl_attribution.evaluation.results import Evaluation
from tl_attribution.plugins.wandb.runs import open_run, parse_project, warn_on_failure
from tl_attribution.plugins.wandb.tables import density_row, evaluation_row
from tl_attribution.training.callbacks import Callback, RunInfo, StepRecord

INTERRUPTED, RESUMED = "interrupted", "resumed"
"""Tags. One replaces the other, since wandb does not send an empty list of tags."""

STOPPED = "stopped_by"
"""Key in the summary: the type of the error that ended the run early."""


class WandbCallback(Callback):
    """Logs to ``project`` or ``entity/project``; WANDB_MODE chooses online, offline or disabled.

    Offline, only the last checkpoint of a session becomes an artifact, since every artifact is a
    copy on this machine until it is synced.
    """

    def __init__(self, project: str = "") -> None:
        self.entity, self.project = parse_project(project)
        self._run: wandb.Run | None = None
        self._info: RunInfo | None = None
        self._unsent: tuple[int, Path] | None = None
        self._last = 0

    def on_start(self, run: RunInfo) -> None:
        """Open the wandb run, or resume it. Raises InputError if wandb cannot."""
        wandb_run = open_run(
            self.entity,
            self.project,
            run.out,
            id=run.run_id,
            resume="allow",
            config=_config(run),
        )
        self._info, self._last = run, run.resumed_at
        if wandb_run.disabled:
            return
        wandb_run.define_metric("tokens")
        wandb_run.define_metric("*", step_metric="tokens")
        if run.resumed_at:
            self._retag(wandb_run, INTERRUPTED, RESUMED)
            if STOPPED in wandb_run.summary.keys():  # noqa: SIM118  # it is not a mapping
                del wandb_run.summary[STOPPED]
        self._run = wandb_run

    def on_record(self, record: StepRecord) -> None:
        """Log all numbers of the record."""
        self._log(record.step, record.flat())

    def on_density(self, step: int, density: torch.Tensor) -> None:
        """Log a histogram per layer of log10 of the density, without the features that were never
        active; their share is ``silent``."""
        if self._run is not None:
            self._log(step, density_row(density))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Log the numbers of the summary, and tables of everything else."""
        if self._run is not None:
            self._log(step, evaluation_row(evaluation))

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """Upload the checkpoint as the newest version of its artifact; offline, wait for the end of
        the session."""
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
        run, info = self._run, self._info
        if run is None or info is None:
            return
        self._last = max(self._last, step)
        # A resumed run repeats the steps since its checkpoint, which the server already has.
        if step >= run.starting_step:
            with warn_on_failure(f"the log of step {step}"):
                run.log({"tokens": step * info.config.batch_size, **row}, step=step)

    def _send_checkpoint(self, run: wandb.Run) -> None:
        if self._unsent is not None and self._send(run, "checkpoint", *self._unsent):
            self._unsent = None

    def _send(self, run: wandb.Run, kind: str, step: int, folder: Path) -> bool:
        """Log a folder as an artifact; returns whether wandb accepted it. The files are copied
        first: a checkpoint may be removed while it is still being uploaded."""
        with warn_on_failure(f"the {kind} in {folder}"):
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


def _config(run: RunInfo) -> dict[str, object]:
    model = {"model": run.model, "n_layers": run.n_layers, "d_model": run.d_model}
    return run.config.to_dict() | model
