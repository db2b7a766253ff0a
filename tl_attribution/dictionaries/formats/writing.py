"""Saving a dictionary to a folder: whole or not at all, replacing no file but its own.

The new files are first written to a folder inside (``STAGING``). Then a journal lists what is
removed and what is moved into place, and from then on the save is finished by whoever comes next:
the next save, or the next ``load_dictionary``. Settings are removed first and moved last, so that a
reader that knows nothing of the journal finds no dictionary rather than a mixture.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_attribution.dictionaries.formats.common import peek
from tl_attribution.dictionaries.tensor_files import listed
from tl_attribution.errors import FormatError, InputError
from tl_attribution.files import as_usual, locked, write_whole

STAGING, LOCK = ".tl-attribution-save", ".tl-attribution-lock"
_NEW, _JOURNAL = "new", "journal.json"
_MARK = "tl_attribution_dictionary"
"""Metadata of our weights' files: the format they were written in."""
_SETTINGS = {
    "tl-attribution": "config.json",
    "circuit-tracer": "config.yaml",
    "sae-lens": "cfg.json",
}
"""Each format's settings, beside its weights."""
_WRITTEN = re.compile(
    r"config\.json|config\.yaml|(layer|W_enc|W_dec)_\d+\.safetensors"
    r"|(layer_\d+/)?(cfg\.json|sae_weights\.safetensors)"
)
"""Every file that a save writes."""
_READ = re.compile(
    r"config\.json|config\.yaml|(layer|W_enc|W_dec)_\d+\.safetensors"
    r"|(.*/)?(cfg\.json|sae_weights\.safetensors)"
)
"""Files that would be taken for a part of a dictionary in the formats of others."""


def save_tensors(tensors: dict[str, Tensor | None], file: Path, form: str) -> None:
    """Write the tensors that are there to a safetensors file, marked as ours."""
    ready = {k: t.detach().cpu().contiguous() for k, t in tensors.items() if t is not None}
    save_file(ready, file, metadata={"format": "pt", _MARK: form})


def write_folder(
    path: str | Path, form: str, fill: Callable[[Path], None], *, overwrite: bool = False
) -> None:
    """Let ``fill`` write a dictionary in the format ``form`` into a new folder, whose files then
    take the place of those of the dictionary at ``path``. All other files there are kept.

    Savers of one folder wait for each other. Raises InputError if ``path`` is a file, or a folder
    that holds anything and no dictionary that was saved in this format; with ``overwrite`` only if
    what is kept could be taken for a part of the dictionary.
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
    """The files of the dictionaries in a folder that were saved by us: their formats by name."""
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
        held = [name for name in names if (folder / name).is_file()]
        files |= dict.fromkeys(["config.json", *held], "tl-attribution")
    return files


def remove(folder: Path) -> None:
    """Remove the dictionary in a folder, if it was saved by us, and the folder if that leaves it
    empty. Anything else is kept."""
    if not folder.is_dir():
        return
    with locked(folder, LOCK):
        _clear(folder)
        _discard(folder, set(written(folder)))
    with suppress(OSError):
        folder.rmdir()


def is_unfinished(folder: Path) -> bool:
    """Whether a save of the folder's dictionary was begun and is not over."""
    return any((folder / name).exists() for name in (STAGING, LOCK))


def finish(folder: Path) -> None:
    """Finish a save that was killed while its files were moved into place; wait for one that still
    runs. Raises FormatError if it cannot be finished."""
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


def state(folder: Path) -> object:
    """Equal before and after reading if no save has moved files in between."""
    names = set(_SETTINGS.values())
    stats = {file: file.stat() for file in _files(folder) if file.name in names}
    return {file: (s.st_ino, s.st_size, s.st_mtime_ns) for file, s in stats.items()}


def is_moving(folder: Path) -> bool:
    """Whether a save is moving files into place, or was killed while it did."""
    return _journal(folder).is_file()


def _journal(folder: Path) -> Path:
    return folder / STAGING / _JOURNAL


def _files(folder: Path) -> list[Path]:
    """Files in the folder and its subfolders of layers; nothing behind links."""
    folders = [folder, *sorted(folder.glob("layer_*"))]
    real = [one for one in folders if one == folder or (one.is_dir() and not one.is_symlink())]
    return [p for one in real for p in sorted(one.iterdir()) if p.is_file() and not p.is_symlink()]


def _mark(file: Path) -> str | None:
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get(_MARK)
    except (SafetensorError, OSError):
        return None


def _clear(folder: Path) -> None:
    """Finish, or sweep away, what a killed save has left."""
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
    held = [one.name for one in folder.iterdir() if one.name not in (STAGING, LOCK)]
    if overwrite or not held or set(old.values()) == {form}:
        return
    said = f"in the format {listed(set(old.values()))}" if old else "not a saved dictionary"
    raise InputError(
        f"{folder} exists and is {said} (it holds {listed(held)}), so it is not replaced by one in "
        f"the format {form}; choose an empty folder, or give overwrite=True, which replaces files "
        "of the same names and keeps all others"
    )


def _check_new(folder: Path, old: dict[str, str], form: str, overwrite: bool) -> None:
    """Raise InputError if a new file would take the place of somebody's, or be read with one."""
    new = set(_staged(folder))
    held = [p for p in folder.rglob("*") if (folder / STAGING) not in (p, *p.parents)]
    others = {p.relative_to(folder).as_posix(): p for p in held}
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
    """Do what the journal says, if there is one; what was done before is not done again."""
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
    """What a journal removes and writes. Raises FormatError for anything that no save does: it may
    have come with a folder from elsewhere."""
    said = peek(journal)
    lists = [said.get(key) for key in ("remove", "write")]
    names = [name for one in lists if isinstance(one, list) for name in one]
    safe = [isinstance(n, str) and _WRITTEN.fullmatch(n) for n in names]
    links = [journal.parent, journal.parent / _NEW, *(folder / Path(str(n)).parent for n in names)]
    links = [one for one in links if one != folder and one.is_symlink()]
    if not all(isinstance(one, list) for one in lists) or not all(safe) or links:
        raise FormatError(
            f"{journal} is not the journal of a save; remove {journal.parent} to go on"
        )
    return set(lists[0] or []), set(lists[1] or [])


def _discard(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        (folder / name).unlink(missing_ok=True)
        if "/" in name:
            with suppress(OSError):  # somebody's files are kept
                (folder / name).parent.rmdir()
