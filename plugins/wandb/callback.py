"""One training run as one wandb run, under the id it keeps when it is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import wandb

from tl_attribution.errors import InputError
from tl_attribution.evaluation import Evaluation
from tl_attribution.plugins.wandb import rows
from tl_attribution.training.callbacks import About, Callback, Record

RESERVED = "/\\#?%:"
"""Characters that wandb allows in no name of an entity or project."""


class WandbCallback(Callback):
    """Logs to ``project`` or ``entity/project``, online, offline or not at all as WANDB_MODE says.

    Offline, only the last checkpoint of a session is kept as an artifact, since every artifact is a
    copy on this machine until it is synced.
    """

    def __init__(self, where: str = "") -> None:
        self.entity, self.project = address(where)
        self._run: wandb.Run | None = None
        self._about: About | None = None
        self._unsent: tuple[int, Path] | None = None
        self._last = 0

    def on_start(self, about: About) -> None:
        """Open the run, or go on with it. Raises InputError if wandb cannot."""
        try:
            run = wandb.init(
                entity=self.entity,
                project=self.project,
                id=about.run_id,
                resume="allow",
                dir=_folder(about.out),
                config=_facts(about),
                mode=_mode(),
                reinit="create_new",  # a run that the caller has open stays as it is
                settings=wandb.Settings(console="off"),  # the progress bar is no log
            )
        except wandb.Error as error:
            raise InputError(
                f"wandb cannot open run {about.run_id!r} in "
                f"{self.project or 'its default project'!r}: {error}. Log in with `wandb login`, "
                "or keep the run on this machine with WANDB_MODE=offline"
            ) from error
        self._about, self._last = about, about.resumed_at
        if not run.disabled:
            run.define_metric("tokens")
            run.define_metric("*", step_metric="tokens")
            self._run = run

    def on_record(self, record: Record) -> None:
        """Log every number of the record."""
        self._log(record.step, record.flat())

    def on_density(self, step: int, density: torch.Tensor) -> None:
        """Log a histogram a layer of log10 of the density; features that were never active are no
        part of it, their share is ``silent``."""
        if self._run is not None:
            self._log(step, rows.density(density))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Log the summary's numbers, and tables of everything else."""
        if self._run is not None:
            self._log(step, rows.evaluation(evaluation))

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
        run.tags = tuple(tag for tag in run.tags or () if tag != "interrupted")
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
                run.tags = tuple({*(run.tags or ()), "interrupted"})
            run.summary["stopped_by"] = type(error).__name__
            self._send_checkpoint(run)
        finally:
            self._finish(0 if interrupted else 1)

    def _log(self, step: int, row: Mapping[str, object]) -> None:
        run, about = self._run, self._about
        if run is None or about is None:
            return
        self._last = max(self._last, step)
        # A resumed run repeats the steps since its checkpoint, which the server has already.
        if step >= run.step:
            run.log({"tokens": step * about.config.batch, **row}, step=step)

    def _send_checkpoint(self, run: wandb.Run) -> None:
        if self._unsent is not None:
            self._send(run, "checkpoint", *self._unsent)
            self._unsent = None

    def _send(self, run: wandb.Run, kind: str, step: int, folder: Path) -> None:
        """Log a folder as an artifact. The files are copied first: checkpoints make room for newer
        ones while they may still be on their way."""
        artifact = wandb.Artifact(f"{run.id}-{kind}", kind, metadata={"step": step})
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            artifact.add_file(str(file), name, skip_cache=True, policy="mutable")
        run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=exit_code)


def address(where: str) -> tuple[str | None, str | None]:
    """Entity and project of ``project`` or ``entity/project``; None where wandb's settings decide.
    Raises InputError if it is neither."""
    if not where:
        return None, None
    parts = where.split("/")
    if len(parts) > 2 or not all(parts) or set("".join(parts)) & set(RESERVED):
        raise InputError(
            f"wandb:{where} names no project; give wandb:PROJECT or wandb:ENTITY/PROJECT, without "
            f"any of {' '.join(RESERVED)} in the names"
        )
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def _mode() -> Any:
    """WANDB_MODE as it is now: wandb itself reads it once a process, too early for a notebook."""
    return os.environ.get("WANDB_MODE") or None


def _folder(out: Path | None) -> str | None:
    """Where wandb's own files go: to the run's unless WANDB_DIR says otherwise."""
    return None if "WANDB_DIR" in os.environ else str(out or Path.cwd())


def _facts(about: About) -> dict[str, object]:
    model = {"model": about.model, "n_layers": about.n_layers, "d_model": about.d_model}
    return about.config.to_dict() | model
