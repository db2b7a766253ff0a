"""Save a dictionary to a folder: whole or not at all, replacing no files but a dictionary's.

The new files are first written to a folder inside (``STAGING``). Then a journal lists what is
removed and what is moved into place, and from then on the next save or the next
``load_dictionary`` finishes a save that was interrupted. Settings are removed first and moved last,
so that a reader that does not know the journal finds no dictionary rather than a mixture.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_attribution.dictionaries.formats.common import peek
from tl_attribution.dictionaries.tensor_files import listed
from tl_attribution.errors import FormatError, InputError, TlAttributionError
from tl_attribution.files import as_usual, locked, write_whole

SaveFormat = Literal["tl-attribution", "circuit-tracer", "sae-lens"]
"""Formats that a dictionary can be saved in."""
_T = TypeVar("_T")

STAGING, LOCK = ".tl-attribution-save", ".tl-attribution-lock"
_NEW, _JOURNAL = "new", "journal.json"
_MARK = "tl_attribution_dictionary"
"""Key in the metadata of the weights' files that we write: the format of the dictionary."""
_SETTINGS: dict[str, str] = {
    "tl-attribution": "config.json",
    "circuit-tracer": "config.yaml",
    "sae-lens": "cfg.json",
}
"""Each format's settings file, beside its weights."""
_WRITTEN = re.compile(
    r"config\.json|config\.yaml|(layer|W_enc|W_dec)_\d+\.safetensors"
    r"|(layer_\d+/)?(cfg\.json|sae_weights\.safetensors)"
)
"""Every file that a save writes."""
_READ = re.compile(
    r"config\.json|config\.yaml|(layer|W_enc|W_dec)_\d+\.safetensors"
    r"|(.*/)?(cfg\.json|sae_weights\.safetensors)"
)
"""Files that readers of other formats would take for a part of a dictionary."""


def save_tensors(tensors: dict[str, Tensor | None], file: Path, form: str) -> None:
    """Write the tensors that are not None to a safetensors file, with ``form`` in its metadata."""
    ready = {k: t.detach().cpu().contiguous() for k, t in tensors.items() if t is not None}
    save_file(ready, file, metadata={"format": "pt", _MARK: form})


def write_folder(
    path: str | Path, form: str, fill: Callable[[Path], None], *, overwrite: bool = False
) -> None:
    """Let ``fill`` write a dictionary in the format ``form`` into a new folder, whose files then
    take the place of those of the dictionary at ``path``. All other files there are kept.

    Saves to one folder wait for each other. Raises InputError if ``path`` is a file, or a folder
    that is neither empty nor a dictionary saved in this format; with ``overwrite`` only if a file
    that is kept could be taken for a part of the dictionary.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder; choose an empty folder")
    new_folder = not folder.exists()
    try:
        with locked(folder, LOCK):
            _clear(folder)
            old = written(folder)
            _check_old(folder, old, form, overwrite)
            try:
                _stage(folder, fill)
                _check_new(folder, old, form, overwrite)
                _commit(folder, set(old))
            finally:
                if not _journal(folder).exists():
                    shutil.rmtree(folder / STAGING, ignore_errors=True)
    finally:
        if new_folder:
            with suppress(OSError):  # not empty: the dictionary is there
                folder.rmdir()


def written(folder: Path) -> dict[str, str]:
    """Files in a folder that a save has written: the formats by file name."""
    files: dict[str, str] = {}
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        form = _mark(file) if _WRITTEN.fullmatch(name) else None
        if form in _SETTINGS:
            settings = file.parent / _SETTINGS[form]
            files[name] = form
            if form != "tl-attribution" and settings.is_file() and not settings.is_symlink():
                files[settings.relative_to(folder).as_posix()] = form
    config = peek(folder / "config.json")
    if config.get("format") == "tl-attribution dictionary":
        layers = config.get("n_layers")
        names = [f"layer_{i}.safetensors" for i in range(layers if type(layers) is int else 0)]
        weights = [name for name in names if (folder / name).is_file()]
        files |= dict.fromkeys(["config.json", *weights], "tl-attribution")
    return files


def remove(folder: Path) -> None:
    """Remove the files that a save has written, and the folder if that leaves it empty. Anything
    else is kept."""
    if not folder.is_dir():
        return
    with locked(folder, LOCK):
        _clear(folder)
        _discard(folder, set(written(folder)))
    with suppress(OSError):
        folder.rmdir()


def is_unfinished(folder: Path) -> bool:
    """Whether a save to the folder was begun and is not over."""
    return any((folder / name).exists() for name in (STAGING, LOCK))


def finish(folder: Path) -> None:
    """Finish a save that was killed while its files were moved into place, or wait for one that is
    running. Raises FormatError if it cannot be finished."""
    if not _journal(folder).is_file():
        return
    try:
        with locked(folder, LOCK):
            _apply(folder)
    except OSError as error:
        raise FormatError(
            f"{folder}: the save of this dictionary was interrupted and cannot be finished "
            f"({error}): save it again, or load it once where the folder can be written"
        ) from error


def read_consistently(folder: Path, read: Callable[[Path], _T]) -> _T:
    """``read(folder)``, after finishing a killed save, and again whenever another process has saved
    meanwhile, so that what was read may be of two dictionaries. Raises FormatError for a save that
    cannot be finished."""
    while True:
        finish(folder)
        before = _settings_state(folder)
        try:
            contents = read(folder)
        except (TlAttributionError, FileNotFoundError):
            if not (folder.is_dir() and _saved_since(folder, before)):
                raise
        else:
            if not _saved_since(folder, before):
                return contents


def _saved_since(folder: Path, before: object) -> bool:
    """Whether a save has moved files, is moving them, or was killed while it did."""
    return _journal(folder).is_file() or _settings_state(folder) != before


def _settings_state(folder: Path) -> object:
    """Equal before and after reading if no save has moved files in between."""
    names = set(_SETTINGS.values())
    try:
        stats = {file: file.stat() for file in _files(folder) if file.name in names}
    except FileNotFoundError:  # a save is removing files: equal to nothing
        return object()
    return {file: (s.st_ino, s.st_size, s.st_mtime_ns) for file, s in stats.items()}


def _journal(folder: Path) -> Path:
    return folder / STAGING / _JOURNAL


def _files(folder: Path) -> list[Path]:
    """Files in the folder and its subfolders of layers, without following links."""
    folders = [folder, *sorted(folder.glob("layer_*"))]
    real = [f for f in folders if f == folder or (f.is_dir() and not f.is_symlink())]
    return [p for f in real for p in sorted(f.iterdir()) if p.is_file() and not p.is_symlink()]


def _mark(file: Path) -> str | None:
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get(_MARK)
    except (SafetensorError, OSError):
        return None


def _clear(folder: Path) -> None:
    """Finish a killed save, or remove what it has left."""
    _apply(folder)
    staging = folder / STAGING
    if staging.is_symlink():
        staging.unlink()
    shutil.rmtree(staging, ignore_errors=True)


def _stage(folder: Path, fill: Callable[[Path], None]) -> None:
    new = folder / STAGING / _NEW
    new.mkdir(parents=True)
    fill(new)
    as_usual(new)


def _staged(folder: Path) -> list[str]:
    new = folder / STAGING / _NEW
    return sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file())


def _check_old(folder: Path, old: dict[str, str], form: str, overwrite: bool) -> None:
    names = [file.name for file in folder.iterdir() if file.name not in (STAGING, LOCK)]
    if overwrite or not names or set(old.values()) == {form}:
        return
    contents = f"in the format {listed(set(old.values()))}" if old else "not a saved dictionary"
    raise InputError(
        f"{folder} exists and is {contents} (it holds {listed(names)}), so it is not replaced by "
        f"one in the format {form}; choose an empty folder, or give overwrite=True, which replaces "
        "files of the same names and keeps all others"
    )


def _check_new(folder: Path, old: dict[str, str], form: str, overwrite: bool) -> None:
    """Raise InputError if a new file would replace one that no save has written, or be read with
    one."""
    new = set(_staged(folder))
    present = [p for p in folder.rglob("*") if (folder / STAGING) not in (p, *p.parents)]
    others = {p.relative_to(folder).as_posix(): p for p in present}
    others = {name: p for name, p in others.items() if name not in old}
    taken = [name for name in new & set(others) if others[name].is_dir() or not overwrite]
    parents = {str(Path(name).parent) for name in new} - {"."}
    taken += [n for n in parents & set(others) if others[n].is_symlink() or not others[n].is_dir()]
    if taken:
        raise InputError(
            f"{folder} holds {listed(taken)}, not written by a save, where the dictionary's files "
            "would go; choose another folder or move them away"
            + ("" if overwrite else ", or give overwrite=True to replace files")
        )
    read = [name for name in set(others) - new if _READ.fullmatch(name)]
    if read and form != "tl-attribution":
        raise InputError(
            f"{folder} holds {listed(read)}, not written by a save, which would be read as a part "
            "of the dictionary; choose another folder or move them away"
        )


def _commit(folder: Path, old: set[str]) -> None:
    journal = {"remove": sorted(old), "write": _staged(folder)}
    write_whole(_journal(folder), json.dumps(journal).encode())
    _apply(folder)


def _apply(folder: Path) -> None:
    """Carry out the journal, if there is one; steps that are done already are not repeated."""
    journal = _journal(folder)
    if not journal.is_file():
        return
    old, new = _listed_in(journal, folder)
    staged = {name for name in new if (folder / STAGING / _NEW / name).is_file()}
    placed = new - staged
    weights = {name for name in old | new if name.endswith(".safetensors")}
    _discard(folder, (old | new) - weights - placed)
    _discard(folder, old - new)
    for name in [*sorted(staged & weights), *sorted(staged - weights)]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / STAGING / _NEW / name).replace(folder / name)
    journal.unlink()
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def _listed_in(journal: Path, folder: Path) -> tuple[set[str], set[str]]:
    """The files that a journal removes and writes. Raises FormatError for anything that a save does
    not do: the journal may have come with a folder from elsewhere."""
    contents = peek(journal)
    lists = [contents.get(key) for key in ("remove", "write")]
    names = [name for entries in lists if isinstance(entries, list) for name in entries]
    safe = [isinstance(n, str) and _WRITTEN.fullmatch(n) for n in names]
    links = [journal.parent, journal.parent / _NEW, *(folder / Path(str(n)).parent for n in names)]
    links = [path for path in links if path != folder and path.is_symlink()]
    if not all(isinstance(entries, list) for entries in lists) or not all(safe) or links:
        raise FormatError(
            f"{journal} is not the journal of a save; remove {journal.parent} to go on"
        )
    return set(lists[0] or []), set(lists[1] or [])


def _discard(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        (folder / name).unlink(missing_ok=True)
        if "/" in name:
            with suppress(OSError):  # files that no save has written are kept
                (folder / name).parent.rmdir()
