"""Publish a saved dictionary: gather and check its files, and hand them to the Hub's plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_attribution.dictionaries import hub
from tl_attribution.dictionaries.formats import native, readers, writing
from tl_attribution.dictionaries.formats.common import read_json
from tl_attribution.dictionaries.formats.readers import DICTIONARY_FORMATS
from tl_attribution.dictionaries.hub import Publication, Published
from tl_attribution.dictionaries.run_folder import RUN, dictionary_of, is_run
from tl_attribution.errors import FormatError, NotFoundError

EVALUATION, CARD = "evaluation.json", "README.md"


def publish(
    path: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    license: str | None = None,
) -> Published:
    """Publish the dictionary at ``path`` (its folder, or its training run's) to the repository
    ``repo``, ``org/name``, in one commit: weights, settings, ``evaluation.json`` and a model card.

    ``revision`` is the branch; ``tag`` names the commit. A ``README.md`` in the folder is the card,
    else one is written. Raises InputError for an invalid name, NotFoundError and FormatError for a
    dictionary that is missing or damaged, HubError for failures of the Hub.
    """
    hub.check_repo(repo)
    publication = gather(path, license)
    return hub.hub().publish(publication, repo, private=private, revision=revision, tag=tag)


def gather(path: str | Path, license: str | None = None) -> Publication:
    """Gather what is published. Every file is opened, so that nothing damaged is published."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"no dictionary at {folder}; give its folder, or its training run's")
    if is_run(folder):
        folder = dictionary_of(folder)
    writing.finish(folder)
    if not native.recognize(folder):
        raise FormatError(
            f"{folder} does not hold a dictionary in our format, the only one that is published; "
            "save one with tla.load_dictionary(…).save(folder)"
        )
    writing.read_consistently(
        folder, lambda folder: readers.read(DICTIONARY_FORMATS[native.NAME], folder)
    )
    config = {"model_name": None, **read_json(folder / native.CONFIG)}
    names = [native.CONFIG, *(f"layer_{i}.safetensors" for i in range(config["n_layers"]))]
    files = {name: folder / name for name in names}
    evaluation, run = _beside(folder, EVALUATION), _beside(folder, RUN)
    if evaluation is not None:
        files[EVALUATION] = evaluation
    card = folder / CARD
    return Publication(
        files,
        config,
        card=card if card.is_file() else None,
        evaluation=_summary(evaluation),
        run={} if run is None else read_json(run),
        license=license,
    )


def _beside(folder: Path, name: str) -> Path | None:
    """A file in the dictionary's folder, or in the folder of its training run."""
    folders = [folder, folder.parent] if is_run(folder.parent) else [folder]
    return next((file for parent in folders if (file := parent / name).is_file()), None)


def _summary(evaluation: Path | None) -> dict[str, Any]:
    if evaluation is None:
        return {}
    summary = read_json(evaluation).get("summary")
    if not isinstance(summary, dict):
        raise FormatError(
            f"{evaluation} is not an evaluation; write one with tl-attribution evaluate … --json"
        )
    return summary
