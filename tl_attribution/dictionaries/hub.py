"""Dictionaries on the Hub: addresses, the files to download, and the service that stores them,
which a plugin provides (see plugins/huggingface_hub)."""

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
"""Called with (bytes done, bytes in all, file name)."""

WEIGHTS, SETTINGS = (".safetensors", ".npz"), (".json", ".yaml", ".yml")
"""Endings of the only files that are downloaded: none of them can run code."""
LARGEST_SETTINGS = 1 << 20

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(
    rf"(?:hf://)?(?P<repo>{_PART}/{_PART})(?P<folder>(?:/{_PART})*)/?(?:@(?P<revision>{_PART}(?:/{_PART})*))?"
)


@dataclass(frozen=True)
class Address:
    """The address of a dictionary on the Hub: ``org/name[/folder][@revision]``."""

    repo: str
    folder: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return f"{self.repo}{folder}{revision}"


def address(text: str) -> Address | None:
    """Parse an address; None if ``text`` is not one. No part begins with a dot, so that none leads
    up."""
    match = _ADDRESS.fullmatch(text)
    if match is None or ".." in text:
        return None
    return Address(match["repo"], match["folder"].strip("/"), match["revision"] or "main")


@dataclass(frozen=True)
class Publication:
    """A dictionary to be published: its files, and the facts for its model card."""

    files: dict[str, Path]
    """Weights, settings and evaluation results, by the names they are published under."""
    config: dict[str, Any]
    """The contents of ``config.json``."""
    card: Path | None = None
    """A model card that the owner wrote, in place of the generated one."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The numbers of ``evaluation.json`` over all layers, by name."""
    run: dict[str, Any] = field(default_factory=dict)
    """The contents of the training run's ``run.json``."""
    license: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files.values())


class Published(NamedTuple):
    """Where a dictionary was published. ``address@commit`` always loads this version."""

    address: str
    url: str
    commit: str


@runtime_checkable
class Hub(Protocol):
    """A service that stores dictionaries. Every method raises HubError for its failures."""

    def download(self, address: Address, progress: Progress | None) -> Path:
        """The folder in the service's cache that holds the dictionary, after downloading it."""
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


def needed(sizes: Mapping[str, int], address: Address) -> list[str]:
    """The files of the dictionary at an address, of the repository's files (bytes by name): weights
    and settings in its folder or, if that has no weights itself, in numbered folders below it.
    Settings come last, so that an interrupted download is not taken for a dictionary.

    Raises HubError for a name that leads out of the repository, and if there is no dictionary.
    """
    files = {_inside(name, address): name for name in sizes}
    top = PurePosixPath(address.folder)
    weights = [path for path in files if path.suffix in WEIGHTS]
    chosen = [path for path in weights if path.parent == top]
    if not chosen:
        chosen = [
            path
            for path in weights
            if path.parent.parent == top != path.parent and re.search(r"\d", path.parent.name)
        ]
        _check_layer_folders({path.parent.name for path in chosen}, address)
    if not chosen and top / "config.yaml" not in files:
        raise HubError(_no_dictionary(files, address))
    folders = {top, *(path.parent for path in chosen)}
    settings = [
        path
        for path, name in files.items()
        if path.suffix in SETTINGS and path.parent in folders and sizes[name] <= LARGEST_SETTINGS
    ]
    return [files[path] for path in (*sorted(chosen), *sorted(settings))]


def is_settings(name: str) -> bool:
    """Whether a file holds settings rather than weights."""
    return PurePosixPath(name).suffix in SETTINGS


def _inside(name: str, address: Address) -> PurePosixPath:
    """A file's name as a path. Raises HubError if it leads out of the repository."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:\0"):
        raise HubError(
            f"{address} has a file named {name!r}, which leads out of the repository, so nothing "
            "was downloaded; tell its owner, or the Hub"
        )
    return path


def _check_layer_folders(folders: set[str], address: Address) -> None:
    """Raise HubError unless the names of folders differ in one number, the layer: otherwise they
    are several dictionaries."""
    numbers = [tuple(re.findall(r"\d+", folder)) for folder in folders]
    shapes = {re.sub(r"\d+", "#", folder) for folder in folders}
    varying = [len(set(column)) > 1 for column in zip(*numbers, strict=False)]
    if len(shapes) > 1 or sum(varying) > 1:
        shown = ", ".join(sorted(folders)[:4])
        raise HubError(
            f"{address} holds several dictionaries (folders {shown}, …), which cannot be told "
            f"apart; give one that is in a separate folder: {address.repo}/FOLDER"
        )


def _no_dictionary(files: Iterable[PurePosixPath], address: Address) -> str:
    from tl_attribution.dictionaries.formats.readers import needs  # imports torch

    top = PurePosixPath(address.folder)
    below = [path.relative_to(top) for path in files if path.is_relative_to(top)]
    for path in below:
        if remedy := pickles.remedy(path.suffix):
            return (
                f"{address} holds {path.name} and no safetensors. A pickle can run code when it is "
                f"read, so it is not downloaded; ask its owner for safetensors: {remedy}"
            )
    names = sorted({path.parts[0] + ("/" if len(path.parts) > 1 else "") for path in below})
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return (
        f"{address} has none of the layouts of a dictionary (found: {shown or 'nothing'}): "
        "safetensors in the folder itself or in one folder per layer. Name another folder, "
        f"{address.repo}/FOLDER. {needs()}"
    )


def check_repo(repo: str) -> str:
    """Return ``repo`` if it is ``org/name``, else raise InputError."""
    parsed = address(repo)
    if parsed is None or parsed.folder or parsed != Address(repo):
        raise InputError(f"expected a repository as ORGANIZATION/NAME, got {repo!r}")
    return repo
