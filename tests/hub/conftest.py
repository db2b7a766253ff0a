"""A Hub on loopback, and a client that is logged in to it with a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download, utils

from tests.cli.conftest import cli
from tests.dictionaries.small import small
from tests.hub.checks import forget_sessions
from tests.hub.server import TOKEN, State, serving

__all__ = ["cli"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The constants are patched because the client read its environment when it was imported,
    offline."""
    with serving() as state:
        patched = {
            "ENDPOINT": state.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": state.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_ASSETS_CACHE": str(tmp_path / "assets"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        for name, value in patched.items():
            monkeypatch.setattr(constants, name, value)
            if hasattr(file_download, name):  # clients before 1.0 keep one of them there too
                monkeypatch.setattr(file_download, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between tries
        forget_sessions()
        utils.disable_progress_bars()
        yield state
        utils.enable_progress_bars()
        forget_sessions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny dictionary's files."""
    small().save(tmp_path / "d")
    return tmp_path / "d"
