"""The folder of a training run, in which its dictionary lies."""

from __future__ import annotations

from pathlib import Path

from tl_attribution.errors import NotFoundError

RUN = "run.json"


def is_run(folder: Path) -> bool:
    """Whether the folder is a training run's."""
    return (folder / RUN).is_file()


def dictionary_of(run: Path) -> Path:
    """The folder of a training run's dictionary. Raises NotFoundError if it has none yet."""
    if not (run / "dictionary").is_dir():
        raise NotFoundError(
            f"the run in {run} has not finished, so it has no dictionary yet; go on with "
            "tl-attribution train … --resume"
        )
    return run / "dictionary"
