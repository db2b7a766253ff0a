"""From an address to a folder in the Hub's cache that holds the dictionary, whole and checked."""

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

from tl_attribution.dictionaries import remote
from tl_attribution.dictionaries.remote import Address, Progress
from tl_attribution.errors import HubError
from tl_attribution.plugins.huggingface_hub.failures import UnreachableError, told

AT_ONCE = 4
"""Files that are fetched at the same time."""
COMMIT = "[0-9a-f]{40}"
SECONDS = 0.25
"""Between two looks at how much has arrived."""


class Remote(NamedTuple):
    """One file as the Hub lists it."""

    name: str
    size: int
    digest: str
    """SHA-256 of a large file, git's SHA-1 of a small one: the name of its blob in the cache."""


def download(address: Address, progress: Progress | None = None) -> Path:
    """The dictionary's folder in the cache; fetched if it is not there, with ``progress`` or the
    Hub's own bars.

    Settings are fetched after all weights have been checked, so that a cache which holds them holds
    all of the dictionary. Where the Hub does not answer, the cache is enough. Raises NotFoundError
    for a repository or revision that does not exist and HubError for everything else.
    """
    if re.fullmatch(COMMIT, address.revision):  # never changes
        with suppress(HubError):
            return _cached(address)
    try:
        commit, there = listed(address)
    except UnreachableError as error:
        try:
            return _cached(address)
        except HubError as lacking:
            raise HubError(f"{error}; and {lacking}") from None
    sizes = {name: one.size for name, one in there.items()}
    files = [there[name] for name in remote.needed(sizes, address)]
    snapshot = storage(address) / "snapshots" / commit
    settings = [one for one in files if remote.is_settings(one.name)]
    held = {one for one in files if _blob(address, snapshot / one.name) is not None}
    whole = bool(settings) and held.issuperset(settings)
    wanted = [one for one in files if not (whole and one in held)]
    with shown(address, wanted, progress):
        fetch(address, commit, [one for one in wanted if one not in settings])
        fetch(address, commit, [one for one in wanted if one in settings])
        _remember(address, commit, files[-1])
    return snapshot / address.folder


def listed(address: Address) -> tuple[str, dict[str, Remote]]:
    """The commit that the revision is now, and its files."""
    with told(f"cannot look at {address}", address.repo):
        info = HfApi().model_info(
            address.repo,
            revision=address.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,  # by itself it waits for ever
        )
        files = {
            one.rfilename: Remote(
                one.rfilename,
                one.size or 0,
                str((one.lfs.sha256 if one.lfs else one.blob_id) or ""),
            )
            for one in info.siblings or []
        }
    if not re.fullmatch(COMMIT, info.sha or ""):
        raise HubError(f"{address}: the Hub names a commit {info.sha!r}, which is not a hash")
    if not all(one.digest for one in files.values()):
        raise HubError(f"{address}: the Hub lists files without hashes, so none can be checked")
    return str(info.sha), files


def storage(address: Address) -> Path:
    """The repository's folder in the cache, whose layout huggingface_hub documents."""
    folder = repo_folder_name(repo_id=address.repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder


def _cached(address: Address) -> Path:
    """The dictionary as it was last fetched. Raises HubError if it was not, or not whole."""
    place = storage(address)
    ref = place / "refs" / address.revision
    commit = ref.read_text().strip() if ref.is_file() else address.revision
    if not re.fullmatch(COMMIT, commit):
        raise HubError(f"the cache in {place.parent} does not hold {address}")
    snapshot = place / "snapshots" / commit
    held = [path for path in snapshot.rglob("*") if _blob(address, path) is not None]
    sizes = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in held}
    try:
        files = remote.needed(sizes, address)
    except HubError:
        raise HubError(f"the cache in {place.parent} does not hold {address}") from None
    if not any(remote.is_settings(name) for name in files):
        raise HubError(f"the cache in {place.parent} holds only a part of {address}")
    return snapshot / address.folder


def fetch(address: Address, commit: str, files: list[Remote]) -> None:
    """Fetch some files, unless an earlier try has, and check them."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(_fetch_one, address, commit, one) for one in files]
        try:
            for one in running:
                one.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fetch_one(address: Address, commit: str, one: Remote) -> None:
    with told(f"cannot download {one.name} of {address}", address.repo):
        path = Path(hf_hub_download(address.repo, one.name, revision=commit))
        blob = _blob(address, path)
    if blob is None:
        path.unlink(missing_ok=True)  # the link alone
        raise HubError(
            f"{one.name} of {address} was a link out of the cache in {storage(address)}. It was "
            "removed; try again"
        )
    found = _digest(blob, len(one.digest))
    if found != one.digest:
        for damaged in (path, blob):
            damaged.unlink(missing_ok=True)
        raise HubError(
            f"{one.name} of {address} arrived damaged: its hash is {found[:12]}…, expected "
            f"{one.digest[:12]}…. It was removed; try again"
        )


def _blob(address: Address, path: Path) -> Path | None:
    """The file in the repository's own cache that a name in a snapshot stands for, or None if there
    is none or it lies elsewhere. The blob may itself be a link into the client's shared store."""
    place = storage(address).resolve()
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
    with path.open("rb") as opened:
        return sha_fileobj(opened).hex()


def _remember(address: Address, commit: str, one: Remote) -> None:
    """Let the cache know which commit the revision is, for when the Hub does not answer."""
    with told(f"cannot download {one.name} of {address}", address.repo):
        path = hf_hub_download(address.repo, one.name, revision=address.revision)
    if commit not in Path(path).parts:
        raise HubError(f"{address} was changed while it was downloaded; try again")


@contextmanager
def shown(address: Address, files: list[Remote], progress: Progress | None) -> Iterator[None]:
    """Tell ``progress`` how many bytes have arrived, in place of the Hub's own bars."""
    if progress is None or not files:
        yield
        return
    barred, over = not are_progress_bars_disabled(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(address, files, progress, over), daemon=True)
    disable_progress_bars()
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if barred:
            enable_progress_bars()


def _watch(
    address: Address, files: list[Remote], progress: Progress, over: threading.Event
) -> None:
    blobs, total = storage(address) / "blobs", sum(one.size for one in files)
    digests = {one.digest for one in files}
    while not over.wait(SECONDS):
        held = [path for path in blobs.glob("*") if path.name.partition(".")[0] in digests]
        done = sum(_size(path) for path in held)
        progress(min(done, total), total, f"downloading {address}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed since it was listed
        return 0
