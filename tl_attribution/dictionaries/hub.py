"""Dictionaries that lie elsewhere: their addresses, the files that are fetched of them, and the
service that holds them, which a plugin offers (see plugins/huggingface_hub)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tl_attribution import plugin_loading
from tl_attribution.dictionaries.formats import pickles
from tl_attribution.errors import HubError, InputError
from tl_attribution.registry import Registry

Progress = Callable[[int, int, str], None]
"""(bytes done, in all, of what)."""

WEIGHTS, SETTINGS = (".safetensors", ".npz"), (".json", ".yaml", ".yml")
"""Endings of the only files that are fetched: none of them can run code."""
LARGEST_SETTINGS = 1 << 20

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(
    rf"(?:hf://)?(?P<repo>{_PART}/{_PART})(?P<folder>(?:/{_PART})*)/?(?:@(?P<revision>{_PART}(?:/{_PART})*))?"
)


@dataclass(frozen=True)
class Address:
    """Where a dictionary lies on the Hub: ``org/name[/folder][@revision]``."""

    repo: str
    folder: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return f"{self.repo}{folder}{revision}"


def address(text: str) -> Address | None:
    """The address that ``text`` is, or None. No part begins with a dot, so that none leads up."""
    found = _ADDRESS.fullmatch(text)
    if found is None or ".." in text:
        return None
    return Address(found["repo"], found["folder"].strip("/"), found["revision"] or "main")


@dataclass(frozen=True)
class Publication:
    """What is published: one dictionary's files, and what is known of it besides."""

    files: dict[str, Path]
    """By the name they get: weights, settings, evaluation results."""
    config: dict[str, Any]
    """What ``config.json`` says."""
    card: Path | None = None
    """A model card that its owner wrote, in place of the one that is made."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The numbers of ``evaluation.json`` over all layers, by name."""
    run: dict[str, Any] = field(default_factory=dict)
    """What ``run.json`` says of the training run."""
    license: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files.values())


class Published(NamedTuple):
    """Where a dictionary was published. ``commit`` is what ``@commit`` loads for ever."""

    address: str
    url: str
    commit: str


@runtime_checkable
class Hub(Protocol):
    """A service that holds dictionaries. Every method raises HubError for what goes wrong there."""

    def download(self, address: Address, progress: Progress | None) -> Path:
        """The folder in the service's cache that holds the dictionary, fetched if need be."""
        ...

    def publish(
        self,
        publication: Publication,
        repo: str,
        *,
        private: bool,
        revision: str | None,
        tag: str | None,
    ) -> Published:
        """Publish in one commit: all of it or nothing."""
        ...

    def card(self, publication: Publication, repo: str) -> str:
        """The model card that is published with it."""
        ...


HUBS: Registry[Hub] = Registry("hub")
"""Services by name. The last registered is used."""


def hub() -> Hub:
    """The service that was registered last. Raises HubError if none is installed."""
    if not HUBS:
        plugin_loading.import_host("huggingface_hub")
    if not HUBS:
        raise HubError(
            "the plugin for the Hugging Face Hub did not load: pip install tl-attribution"
        )
    return next(iter(HUBS.values()))


def needed(sizes: Mapping[str, int], where: Address) -> list[str]:
    """Of a repository's files (their bytes by name), those that the dictionary at ``where`` is made
    of: weights and settings in its folder or, where the folder has no weights itself, in numbered
    folders below it. Settings come last: a download cut short is no dictionary.

    Raises HubError for a name that leads out of the repository, and if there is no dictionary.
    """
    files = {_inside(name, where): name for name in sizes}
    top = PurePosixPath(where.folder)
    weights = [path for path in files if path.suffix in WEIGHTS]
    chosen = [path for path in weights if path.parent == top]
    if not chosen:
        chosen = [
            path
            for path in weights
            if path.parent.parent == top != path.parent and re.search(r"\d", path.parent.name)
        ]
        _one_a_layer({path.parent.name for path in chosen}, where)
    if not chosen and top / "config.yaml" not in files:
        raise HubError(_no_dictionary(files, where))
    folders = {top, *(path.parent for path in chosen)}
    told = [
        path
        for path, name in files.items()
        if path.suffix in SETTINGS and path.parent in folders and sizes[name] <= LARGEST_SETTINGS
    ]
    return [files[path] for path in (*sorted(chosen), *sorted(told))]


def is_settings(name: str) -> bool:
    """Whether a file says what a dictionary is, rather than being its weights."""
    return PurePosixPath(name).suffix in SETTINGS


def _inside(name: str, where: Address) -> PurePosixPath:
    """A file's name as a path. Raises HubError if it leads out of the repository."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:\0"):
        raise HubError(
            f"{where} has a file named {name!r}, which leads out of the repository, so nothing was "
            "downloaded; tell its owner, or the Hub"
        )
    return path


def _one_a_layer(folders: set[str], where: Address) -> None:
    """Raise HubError unless the names of folders differ in one number, the layer: else they are
    several dictionaries."""
    numbers = [tuple(re.findall(r"\d+", folder)) for folder in folders]
    shapes = {re.sub(r"\d+", "#", folder) for folder in folders}
    varying = [len(set(column)) > 1 for column in zip(*numbers, strict=False)]
    if len(shapes) > 1 or sum(varying) > 1:
        shown = ", ".join(sorted(folders)[:4])
        raise HubError(
            f"{where} holds several dictionaries (folders {shown}, …), which cannot be told apart; "
            f"give one that is in a folder of its own: {where.repo}/FOLDER"
        )


def _no_dictionary(files: Iterable[PurePosixPath], where: Address) -> str:
    from tl_attribution.dictionaries.formats.readers import needs  # every reader

    top = PurePosixPath(where.folder)
    below = [path.relative_to(top) for path in files if path.is_relative_to(top)]
    for path in below:
        if remedy := pickles.remedy(path.suffix):
            return (
                f"{where} holds {path.name} and no safetensors. A pickle can run code when it is "
                f"read, so it is not downloaded; ask its owner for safetensors: {remedy}"
            )
    held = sorted({path.parts[0] + ("/" if len(path.parts) > 1 else "") for path in below})
    shown = ", ".join(held[:8]) + (", …" if len(held) > 8 else "")
    return (
        f"{where} has none of the layouts of a dictionary (found: {shown or 'nothing'}): "
        "safetensors in the folder itself or in one folder a layer. Name another folder, "
        f"{where.repo}/FOLDER. {needs()}"
    )


def check_repo(repo: str) -> str:
    """``repo`` if it is ``org/name``. Raises InputError."""
    found = address(repo)
    if found is None or found.folder or found != Address(repo):
        raise InputError(f"{repo!r} is no name of a repository; give ORGANISATION/NAME")
    return repo
