"""Files that can run code when they are read, so that they never are, and what turns them into
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
    """What to do with a file of this ending; None if it is no pickle."""
    return PICKLES.get(SAME.get(suffix, suffix))
