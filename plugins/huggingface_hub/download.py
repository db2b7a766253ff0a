"""Download a dictionary into the Hub's cache, completely and with every file's hash checked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import wrapt
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from tl_attribution.dictionaries import hub
from tl_attribution.dictionaries.hub import Address, Progress
from tl_attribution.errors import HubError
from tl_attribution.plugins.huggingface_hub.hub_errors import UnreachableError, translate_errors

PARALLEL_DOWNLOADS = 4
"""Number of files downloaded at the same time."""
COMMIT = "[0-9a-f]{40}"
POLL_SECONDS = 0.25
"""Seconds between two progress reports."""


class RemoteFile(NamedTuple):
    """A file as the Hub lists it."""

    name: str
    size: int
    digest: str
    """SHA-256 of a large file, git's SHA-1 of a small one: the name of its blob in the cache."""


def download(address: Address, progress: Progress | None = None) -> Path:
    """Download the dictionary unless it is cached; returns its folder in the cache. ``progress``
    replaces the Hub's own bars.

    Settings are downloaded after all weights have been checked, so that a cache with settings holds
    the whole dictionary. If the Hub does not answer, the cache is used. Raises NotFoundError for a
    repository or revision that does not exist and HubError for every other failure.
    """
    if re.fullmatch(COMMIT, address.revision):  # never changes
        with suppress(HubError):
            return _cached(address)
    try:
        commit, listing = list_files(address)
    except UnreachableError as error:
        try:
            return _cached(address)
        except HubError as cache_error:
            raise HubError(f"{error}; and {cache_error}") from None
    sizes = {name: file.size for name, file in listing.items()}
    files = [listing[name] for name in hub.needed(sizes, address)]
    snapshot = repo_cache(address) / "snapshots" / commit
    settings = [file for file in files if hub.is_settings(file.name)]
    present = {file for file in files if _blob(address, snapshot / file.name) is not None}
    whole = bool(settings) and present.issuperset(settings)
    missing = [file for file in files if not (whole and file in present)]
    with report_bytes(address, missing, progress):
        fetch(address, commit, [file for file in missing if file not in settings])
        fetch(address, commit, [file for file in missing if file in settings])
        _remember(address, commit, files[-1])
    return snapshot / address.folder


def list_files(address: Address) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that the revision points to, and its files by name."""
    with translate_errors(f"cannot list the files of {address}", address.repo):
        info = HfApi().model_info(
            address.repo,
            revision=address.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,  # without it, no limit
        )
        files = {
            file.rfilename: RemoteFile(
                file.rfilename,
                file.size or 0,
                str((file.lfs.sha256 if file.lfs else file.blob_id) or ""),
            )
            for file in info.siblings or []
        }
    if not re.fullmatch(COMMIT, info.sha or ""):
        raise HubError(f"{address}: the Hub names a commit {info.sha!r}, which is not a hash")
    if not all(file.digest for file in files.values()):
        raise HubError(f"{address}: the Hub lists files without hashes, so none can be checked")
    return str(info.sha), files


def repo_cache(address: Address) -> Path:
    """The repository's folder in the cache; huggingface_hub documents its layout."""
    folder = repo_folder_name(repo_id=address.repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder


def _cached(address: Address) -> Path:
    """The cached folder of the dictionary. Raises HubError if it is missing or incomplete."""
    cache = repo_cache(address)
    ref = cache / "refs" / address.revision
    commit = ref.read_text().strip() if ref.is_file() else address.revision
    if not re.fullmatch(COMMIT, commit):
        raise HubError(f"the cache in {cache.parent} does not hold {address}")
    snapshot = cache / "snapshots" / commit
    paths = [path for path in snapshot.rglob("*") if _blob(address, path) is not None]
    sizes = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in paths}
    try:
        files = hub.needed(sizes, address)
    except HubError:
        raise HubError(f"the cache in {cache.parent} does not hold {address}") from None
    if not any(hub.is_settings(name) for name in files):
        raise HubError(f"the cache in {cache.parent} holds only a part of {address}")
    return snapshot / address.folder


def fetch(address: Address, commit: str, files: list[RemoteFile]) -> None:
    """Download files that are not cached, and check the hashes of all."""
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        futures = [pool.submit(_fetch_one, address, commit, file) for file in files]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fetch_one(address: Address, commit: str, file: RemoteFile) -> None:
    with translate_errors(f"cannot download {file.name} of {address}", address.repo):
        path = Path(hf_hub_download(address.repo, file.name, revision=commit))
        blob = _blob(address, path)
    if blob is None:
        path.unlink(missing_ok=True)  # the link alone
        raise HubError(
            f"{file.name} of {address} was a link out of the cache in {repo_cache(address)}. It "
            "was removed; try again"
        )
    digest = _digest(blob, len(file.digest))
    if digest != file.digest:
        for damaged in (path, blob):
            damaged.unlink(missing_ok=True)
        raise HubError(
            f"{file.name} of {address} arrived damaged: its hash is {digest[:12]}…, expected "
            f"{file.digest[:12]}…. It was removed; try again"
        )


def _blob(address: Address, path: Path) -> Path | None:
    """The file in the repository's own cache that a name in a snapshot stands for, or None if there
    is none or it lies elsewhere. The blob may itself be a link into the client's shared store."""
    place = repo_cache(address).resolve()
    if not path.is_file():
        return None
    if not path.is_symlink():
        return path if path.parent.resolve().is_relative_to(place / "snapshots") else None
    target = path.parent.resolve() / path.readlink()
    inside = target.parent.resolve() == place / "blobs"
    return target.parent.resolve() / target.name if inside else None


@wrapt.patch_function_wrapper("huggingface_hub.file_download", "_get_metadata_or_catch_error")
def _checked_metadata(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """What the client builds paths of must not lead anywhere: the blob's name, which is the ETag
    that the server sends, and the commit's. This is the one place that all its downloads pass."""
    del instance
    metadata = wrapped(*args, **kwargs)
    for what, name in (("ETag", metadata[1]), ("commit", metadata[2])):
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise HubError(
                f"the Hub answers with the {what} {name[:80]!r}, which would be a path on this "
                "machine, so nothing was downloaded; tell whoever runs the server"
            )
    return metadata


def _digest(path: Path, length: int) -> str:
    """SHA-256 as 64 hexadecimal digits, or git's SHA-1 as 40."""
    if length == 40:
        return git_hash(path.read_bytes())
    with path.open("rb") as stream:
        return sha_fileobj(stream).hex()


def _remember(address: Address, commit: str, file: RemoteFile) -> None:
    """Record in the cache which commit the revision is, for when the Hub does not answer."""
    with translate_errors(f"cannot download {file.name} of {address}", address.repo):
        path = hf_hub_download(address.repo, file.name, revision=address.revision)
    if commit not in Path(path).parts:
        raise HubError(f"{address} was changed while it was downloaded; try again")


@contextmanager
def report_bytes(
    address: Address, files: list[RemoteFile], progress: Progress | None
) -> Iterator[None]:
    """Report downloaded bytes to ``progress``, in place of the Hub's own bars."""
    if progress is None or not files:
        yield
        return
    bars_shown, finished = not are_progress_bars_disabled(), threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(address, files, progress, finished), daemon=True
    )
    disable_progress_bars()
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        if bars_shown:
            enable_progress_bars()


def _watch(
    address: Address, files: list[RemoteFile], progress: Progress, finished: threading.Event
) -> None:
    blobs, total = repo_cache(address) / "blobs", sum(file.size for file in files)
    digests = {file.digest for file in files}
    while not finished.wait(POLL_SECONDS):
        paths = [path for path in blobs.glob("*") if path.name.partition(".")[0] in digests]
        done = sum(_size(path) for path in paths)
        progress(min(done, total), total, f"downloading {address}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed after it was listed
        return 0
