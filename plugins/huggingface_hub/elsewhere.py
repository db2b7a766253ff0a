"""Dictionaries whose ``config.yaml`` names files of other repositories, as circuit-tracer's of
Gemma Scope do (``transcoders: [hf://org/name/file, …]``): gathered as one folder of links."""

from __future__ import annotations

import os
import shutil
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import cached_assets_path, constants

from tl_attribution.dictionaries import remote
from tl_attribution.dictionaries.remote import Address, Progress
from tl_attribution.errors import FormatError, HubError
from tl_attribution.files import write_whole
from tl_attribution.plugins.huggingface_hub import download

CONFIG, LIST, FILE, SCHEME = "config.yaml", "transcoders", "filepath", "hf://"


def gathered(folder: Path, progress: Progress | None) -> Path:
    """``folder`` if it holds the dictionary's weights; else a folder that holds links to them, and
    a config that names them there. It is kept, in huggingface_hub's place for what is made of
    downloads.

    Raises HubError if a file cannot be had, or if there are no weights at all.
    """
    config = _config(folder / CONFIG)
    entries = config.get(LIST) or []
    names = [str(one.get(FILE) if isinstance(one, dict) else one) for one in entries]
    if not any(name.startswith(SCHEME) for name in names):
        if not any(path.suffix in remote.WEIGHTS for path in folder.rglob("*")):
            raise HubError(f"{folder} holds settings but no weights, so it is no dictionary")
        return folder
    place = _place(folder)
    if (place / CONFIG).is_file():  # written last
        return place
    sources = _fetched(folder, names, progress)
    new = [f"layer_{i}{source.suffix}" for i, source in enumerate(sources)]
    for name, source in zip(new, sources, strict=True):
        _link(source, place / name)
    config[LIST] = [
        {**one, FILE: name} if isinstance(one, dict) else name
        for one, name in zip(entries, new, strict=True)
    ]
    write_whole(place / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
    return place


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not plain YAML: {error}") from error
    entries = held.get(LIST) if isinstance(held, dict) else None
    return held if isinstance(held, dict) and isinstance(entries, list | None) else {}


def _place(folder: Path) -> Path:
    snapshot = folder.relative_to(constants.HF_HUB_CACHE)
    return Path(
        cached_assets_path(
            "tl-attribution",
            namespace="gathered",
            subfolder="--".join(snapshot.parts),
            assets_dir=constants.HF_ASSETS_CACHE,
        )
    )


def _fetched(folder: Path, names: list[str], progress: Progress | None) -> list[Path]:
    """Where the files lie that a config names, fetched if need be."""
    found = {name: _named(folder, name) for name in names}
    elsewhere = [one for one in found.values() if isinstance(one, Address)]
    paths: dict[Address, Path] = {}
    for whole, group in groupby(sorted(elsewhere, key=str), lambda one: (one.repo, one.revision)):
        wanted = list(group)
        at = Address(whole[0], revision=whole[1])
        commit, listed = download.listed(at)
        if lacking := [one.folder for one in wanted if one.folder not in listed]:
            raise HubError(f"{at} lacks {lacking[0]}, which the config in {folder} names")
        snapshot = download.storage(at) / "snapshots" / commit
        files = [listed[one.folder] for one in wanted]
        missing = [one for one in files if not (snapshot / one.name).exists()]
        with download.shown(at, missing, progress):
            download.fetch(at, commit, files)  # all: none has been checked for us before
        paths |= {one: snapshot / one.folder for one in wanted}
    return [paths[one] if isinstance(one, Address) else one for one in found.values()]


def _named(folder: Path, name: str) -> Path | Address:
    """A file that a config names: in the folder, or elsewhere on the Hub."""
    path, _, revision = name.partition("?revision=")
    where = remote.address(f"{path}@{revision}" if revision else path)
    plain = PurePosixPath(path)
    if plain.suffix not in remote.WEIGHTS:
        raise HubError(
            f"the config in {folder} names {name!r}; only {' and '.join(remote.WEIGHTS)} are read"
        )
    if name.startswith(SCHEME) and where is not None and where.folder:
        return where
    if plain.is_absolute() or ".." in plain.parts or set(path) & set("\\:"):
        raise HubError(f"the config in {folder} names {name!r}, which lies outside of it")
    return folder / path


def _link(source: Path, link: Path) -> None:
    """A link, or a copy where the file system has none."""
    link.unlink(missing_ok=True)
    try:
        os.symlink(source, link)
    except OSError:
        shutil.copyfile(source, link)
