"""Publishing a dictionary: what belongs to it is gathered and checked here, the service does the
rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_attribution.dictionaries import remote
from tl_attribution.dictionaries.formats import native, writing
from tl_attribution.dictionaries.formats.common import read_json
from tl_attribution.dictionaries.registry import load_dictionary, of_run
from tl_attribution.dictionaries.remote import Publication, Published
from tl_attribution.errors import FormatError, NotFoundError

EVALUATION, RUN, CARD = "evaluation.json", "run.json", "README.md"


def publish(
    path: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    licence: str | None = None,
) -> Published:
    """Publish the dictionary at ``path`` (its folder, or its training run's) to the repository
    ``repo``, ``org/name``, in one commit: weights, settings, ``evaluation.json`` and a model card.

    ``revision`` is the branch; ``tag`` names the commit. A ``README.md`` in the folder is the card,
    else one is made. Raises InputError for a name that is none, NotFoundError and FormatError for a
    dictionary that is missing or damaged, HubError for what goes wrong at the Hub.
    """
    remote.check_repo(repo)
    publication = gather(path, licence)
    return remote.hub().publish(publication, repo, private=private, revision=revision, tag=tag)


def gather(path: str | Path, licence: str | None = None) -> Publication:
    """What would be published. Opens every file, so that nothing damaged is."""
    given = Path(path).expanduser()
    if not given.is_dir():
        raise NotFoundError(f"no dictionary at {given}; give its folder, or its training run's")
    folder = of_run(given) if (given / RUN).is_file() else given
    writing.finish(folder)
    if not native.recognise(folder):
        raise FormatError(
            f"{folder} holds no dictionary in our format, which is the one that is published; "
            "save one with tla.load_dictionary(…).save(folder)"
        )
    load_dictionary(folder)
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
        licence=licence,
    )


def _beside(folder: Path, name: str) -> Path | None:
    """A file in the dictionary's folder, or in that of the run it belongs to."""
    places = [folder, *([folder.parent] if (folder.parent / RUN).is_file() else [])]
    return next((place / name for place in places if (place / name).is_file()), None)


def _summary(evaluation: Path | None) -> dict[str, Any]:
    if evaluation is None:
        return {}
    summary = read_json(evaluation).get("summary")
    if not isinstance(summary, dict):
        raise FormatError(f"{evaluation} is no evaluation: tl-attribution evaluate … --json")
    return summary
