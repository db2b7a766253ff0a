"""The folder of a run: its configuration, log, checkpoints and dictionary."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.training import checkpoint
from tl_attribution.training.callbacks import StepRecord
from tl_attribution.training.config import TrainingConfig
from tl_attribution.training.distributed import ProcessGrid


class RunFolder:
    """The folder of a run, created or opened by the main process; without ``path``, nothing is
    written."""

    def __init__(
        self,
        path: Path | None,
        config: TrainingConfig,
        host: Traceable,
        grid: ProcessGrid,
        *,
        data_name: str,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Raises InputError and FormatError as :func:`~tl_attribution.training.checkpoint.prepare`
        and :func:`~tl_attribution.training.checkpoint.read_run` do."""
        self.path, self.run_id, self._resume = path, uuid.uuid4().hex[:8], resume
        if path is None:
            return
        run = {
            "format": checkpoint.FORMAT,
            "run_id": self.run_id,
            "config": config.to_dict(),
            "model": {"name": host.name, "n_layers": host.n_layers},
            "data": data_name,
        }
        if grid.is_main:
            checkpoint.prepare(path, run, resume=resume, overwrite=overwrite)
        grid.wait()
        self.run_id = checkpoint.read_run(path)["run_id"]

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint of a run to resume, or None."""
        if self.path is None or not self._resume:
            return None
        return checkpoint.load(self.path, device)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path | None:
        """Write a checkpoint; returns its folder. Raises TrainingError if it cannot be written."""
        return None if self.path is None else checkpoint.save(self.path, step, tensors, state)

    def trim_log(self, step: int) -> None:
        """Remove the log's records after ``step``."""
        if self.path is not None:
            checkpoint.trim_log(self.path, step)

    def log(self, record: StepRecord) -> None:
        """Append a record to the log."""
        if self.path is not None:
            with (self.path / checkpoint.LOG).open("a") as log:
                log.write(json.dumps(record.flat()) + "\n")

    def save_dictionary(self, dictionary: Transcoder) -> Path | None:
        """Write the dictionary; returns its folder."""
        if self.path is None:
            return None
        folder = self.path / checkpoint.DICTIONARY
        dictionary.save(folder, overwrite=True)  # the run's folder: notes in it are kept
        return folder

    def last_checkpoint(self) -> str:
        """A clause for messages: the checkpoint that is kept if the run ends now."""
        return checkpoint.last_checkpoint(self.path)
