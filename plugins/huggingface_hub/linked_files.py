"""Dictionaries whose ``config.yaml`` names files of other repositories, as circuit-tracer's of
Gemma Scope do (``transcoders: [hf://org/name/file, …]``): one folder of links to them."""

from __future__ import annotations

import os
import shutil
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import cached_assets_path, constants

from tl_attribution.dictionaries import hub
from tl_attribution.dictionaries.hub import Address, Progress
from tl_attribution.errors import FormatError, HubError
from tl_attribution.files import write_whole
from tl_attribution.plugins.huggingface_hub import download

CONFIG, LIST, FILE, SCHEME = "config.yaml", "transcoders", "filepath", "hf://"


def link_files(folder: Path, progress: Progress | None) -> Path:
    """Return ``folder`` if it holds the dictionary's weights; else a folder with links to them and
    a config that names the links. That folder is kept in huggingface_hub's cache of assets.

    Raises HubError if a file cannot be downloaded, or if there are no weights at all.
    """
    config = _config(folder / CONFIG)
    entries = config.get(LIST) or []
    names = [str(entry.get(FILE) if isinstance(entry, dict) else entry) for entry in entries]
    if not any(name.startswith(SCHEME) for name in names):
        if not any(path.suffix in hub.WEIGHTS for path in folder.rglob("*")):
            raise HubError(f"{folder} holds settings but no weights, so it is not a dictionary")
        return folder
    link_folder = _link_folder(folder)
    if (link_folder / CONFIG).is_file():  # written last
        return link_folder
    sources = _fetch(folder, names, progress)
    new = [f"layer_{i}{source.suffix}" for i, source in enumerate(sources)]
    for name, source in zip(new, sources, strict=True):
        _link(source, link_folder / name)
    config[LIST] = [
        {**entry, FILE: name} if isinstance(entry, dict) else name
        for entry, name in zip(entries, new, strict=True)
    ]
    write_whole(link_folder / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
    return link_folder


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not plain YAML: {error}") from error
    entries = config.get(LIST) if isinstance(config, dict) else None
    return config if isinstance(config, dict) and isinstance(entries, list | None) else {}


def _link_folder(folder: Path) -> Path:
    snapshot = folder.relative_to(constants.HF_HUB_CACHE)
    return Path(
        cached_assets_path(
            "tl-attribution",
            namespace="gathered",
            subfolder="--".join(snapshot.parts),
            assets_dir=constants.HF_ASSETS_CACHE,
        )
    )


def _fetch(folder: Path, names: list[str], progress: Progress | None) -> list[Path]:
    """Paths of the files that a config names; downloaded if they are not cached."""
    sources = {name: _resolve(folder, name) for name in names}
    addresses = [source for source in sources.values() if isinstance(source, Address)]
    paths: dict[Address, Path] = {}
    addresses.sort(key=str)
    for (repo, revision), group in groupby(addresses, lambda file: (file.repo, file.revision)):
        linked = list(group)
        repository = Address(repo, revision=revision)
        commit, listing = download.list_files(repository)
        if lacking := [file.folder for file in linked if file.folder not in listing]:
            raise HubError(f"{repository} lacks {lacking[0]}, which the config in {folder} names")
        snapshot = download.repo_cache(repository) / "snapshots" / commit
        files = [listing[file.folder] for file in linked]
        missing = [file for file in files if not (snapshot / file.name).exists()]
        with download.report_bytes(repository, missing, progress):
            download.fetch(repository, commit, files)  # all: their hashes were not checked before
        paths |= {file: snapshot / file.folder for file in linked}
    return [paths[source] if isinstance(source, Address) else source for source in sources.values()]


def _resolve(folder: Path, name: str) -> Path | Address:
    """A file that a config names: a path in the folder, or an address on the Hub."""
    path, _, revision = name.partition("?revision=")
    where = hub.address(f"{path}@{revision}" if revision else path)
    plain = PurePosixPath(path)
    if plain.suffix not in hub.WEIGHTS:
        raise HubError(
            f"the config in {folder} names {name!r}; only {' and '.join(hub.WEIGHTS)} are read"
        )
    if name.startswith(SCHEME) and where is not None and where.folder:
        return where
    if plain.is_absolute() or ".." in plain.parts or set(path) & set("\\:"):
        raise HubError(f"the config in {folder} names {name!r}, which is outside of it")
    return folder / path


def _link(source: Path, link: Path) -> None:
    """Create a link, or a copy if the file system has no links."""
    link.unlink(missing_ok=True)
    try:
        os.symlink(source, link)
    except OSError:
        shutil.copyfile(source, link)
