"""Pickles, which can run code when they are read and so are never read, and how to convert them to
safetensors."""

from __future__ import annotations

PICKLES = {
    ".pt": "crosslayer-coding's scripts/convert_batchtopk_to_jumprelu.py, or the loader and the "
    "save_pretrained or save_to_disk of the package that wrote it, make safetensors of it",
    ".ckpt": "crosslayer-transcoder's model.save_pretrained(folder) makes safetensors of it",
    ".dcp": "llamascopium's CrossLayerTranscoder.from_pretrained(folder).save_pretrained(new "
    "folder), in one process, makes safetensors of it",
}
SAME = {".pth": ".pt", ".bin": ".pt", ".pkl": ".pt", ".pickle": ".pt", ".distcp": ".dcp"}


def remedy(suffix: str) -> str | None:
    """How to convert a file with this ending; None if it is not a pickle."""
    return PICKLES.get(SAME.get(suffix, suffix))
