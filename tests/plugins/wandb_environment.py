"""Surroundings in which the real wandb client sees a test's server and nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from tests.plugins.wandb_state import KEY

FOLDERS = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
PERSONAL = ("WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_ID")


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path, url: str, **more: str) -> None:
    """Make the client forget what it read and start anew: online, at ``url``, with its own folders
    under ``home``. ``more`` are other variables of the environment, without ``WANDB_``."""
    wandb.teardown()
    for name in FOLDERS:
        monkeypatch.setenv(name, str(home / name))
    for name in PERSONAL:
        monkeypatch.delenv(name, raising=False)
    environment = {"MODE": "online", "SILENT": "true", "BASE_URL": url, "API_KEY": KEY} | more
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


def files_containing(secret: str, folder: Path) -> list[Path]:
    """Files that hold it."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if secret.encode() in file.read_bytes()]
