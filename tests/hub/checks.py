"""What the tests of the Hub share: what a repository holds, and how an error must be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import _http

import tl_attribution as tla
from tests.dictionaries.small import N_LAYERS
from tests.hub.server import SIGNATURE, TOKEN, State
from tl_attribution.dictionaries import publishing

REPO = "me/tiny-clt"
LAYERS = {f"layer_{i}.safetensors" for i in range(N_LAYERS)}
WHOLE = {"config.json", "README.md", *LAYERS}
# The client's own way to send a file to storage, which its HTTP library discourages.
client_warns = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")


def forget_sessions() -> None:
    """Clients before 1.0 decide on being offline when a session opens."""
    getattr(_http, "reset_sessions", lambda: None)()


def files(state: State, repo: str = REPO, revision: str = "main") -> set[str]:
    repository = state.repos[repo]
    return set(repository.commits[repository.resolve(revision) or ""]) - {".gitattributes"}


def publish(folder: Path, repo: str = REPO, **options: Any) -> Callable[[], Any]:
    return lambda: publishing.publish(folder, repo, **options)


def load(source: str) -> Callable[[], Any]:
    return lambda: tla.load_dictionary(source)


def raises_line(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    """One line that says it, holds no secret, and shows nothing of the client's own error, which
    may hold signed links."""
    with pytest.raises(kind, match=message) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert TOKEN not in text
    assert SIGNATURE not in text
    assert error.value.__cause__ is None
