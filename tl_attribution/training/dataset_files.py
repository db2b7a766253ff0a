"""Files of texts and token ids, opened as Hugging Face datasets. No code is ever loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tl_attribution.errors import FormatError, InputError, NotFoundError

BUILDERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".parquet": "parquet"}


def open_path(path: Path, *, concat: bool) -> Any:
    """Open a file, a folder of files of one kind, or what ``Dataset.save_to_disk`` wrote.

    A .txt file is one document, or with ``concat=False`` one text per line. Raises NotFoundError
    for a missing path, InputError for a folder that is empty or of several kinds, FormatError for a
    broken file.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError

    if not path.exists():
        raise NotFoundError(
            f"no file or folder {str(path)!r}. For a dataset of the Hugging Face Hub, give "
            f"datasets.load_dataset({str(path)!r}, split='train')"
        )
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        with no_progress_bars():
            return datasets.load_from_disk(path)
    files, suffix = _files(path)
    options: Any = {"sample_by": "document" if concat else "line"} if suffix == ".txt" else {}
    with no_progress_bars():
        try:
            return datasets.load_dataset(
                BUILDERS[suffix], data_files=[str(f) for f in files], split="train", **options
            )
        except (DatasetGenerationError, UnicodeDecodeError) as error:
            cause = error.__cause__ or error
            raise FormatError(
                f"{path} cannot be read as {suffix}: {type(cause).__name__}: "
                f"{str(cause).splitlines()[0][:200] if str(cause) else 'no reason is given'}. Text "
                "files are UTF-8; .jsonl files hold one JSON object per line"
            ) from error


def _files(path: Path) -> tuple[list[Path], str]:
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    known = [f for f in files if f.suffix.lower() in BUILDERS]
    kinds = sorted({f.suffix.lower() for f in known})
    if len(kinds) != 1:
        content = "files of several kinds" if kinds else "none"
        raise InputError(
            f"expected a dataset as a file, or a folder of files, of one of the kinds "
            f"{', '.join(BUILDERS)}; {path} has {content} ({', '.join(kinds) or path.name})"
        )
    filled = [f for f in known if f.stat().st_size]
    if not filled:
        raise InputError(f"the dataset is empty: {path} has no text")
    return filled, kinds[0]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of the datasets library, which would mix with ours."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
