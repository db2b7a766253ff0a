"""What went wrong with the Hub, in one line that says what to do and holds no secret."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tl_attribution.errors import HubError, NotFoundError, TlAttributionError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
NETWORK = ("httpcore", "httpx", "requests", "urllib3", "hf_xet")
"""Beginnings of the names of modules whose errors are the connection's."""
OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
"""Log every retry, with the link that failed."""
OUR_MISTAKES = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError)
"""Raised by wrong code, ours or a library's, and not by the Hub: shown as they are."""


class _WithoutSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


_FILTER = _WithoutSecrets()
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(_FILTER)


class UnreachableError(HubError):
    """The Hub did not answer, or not now: what is in the cache will do."""


@contextmanager
def told(what: str, repo: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises inside into one of our errors: ``what`` could not be
    done. The original is not chained: it may show signed links."""
    try:
        yield
    except (TlAttributionError, *OUR_MISTAKES):
        raise
    except Exception as error:
        raise _ours(error, what, repo) from None


def _ours(error: Exception, what: str, repo: str) -> TlAttributionError:
    causes = list(_causes(error))
    status = next((code for code in map(_status, causes) if code), None)
    if any(isinstance(c, OfflineModeIsEnabled) for c in causes) and constants.HF_HUB_OFFLINE:
        return UnreachableError(f"{what}: offline, since HF_HUB_OFFLINE is set")
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return HubError(
            f"{what}: {repo} is gated. Ask for access at {_endpoint()}/{repo}, then {LOG_IN}"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return NotFoundError(f"{what}: {repo} has no such revision (branch, tag or commit)")
    if status == 401 and _said(causes).startswith("Invalid"):
        return HubError(f"{what}: the Hub does not know your token. To renew it, {LOG_IN}")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes) or status == 401:
        return NotFoundError(
            f"{what}: there is no repository {repo} at {_endpoint()}, or it is private and you are "
            f"not logged in. To see a private one, {LOG_IN}"
        )
    return _by_status(status, causes, what, repo)


def _by_status(
    status: int | None, causes: list[BaseException], what: str, repo: str
) -> TlAttributionError:
    said = _said(causes)
    told = f" ({said})" if said else ""
    if status is None:
        return _without_status(causes, what)
    if status == 403:
        return HubError(
            f"{what}: your token may not do that with {repo}{told}. Use one with the permission: "
            f"{LOG_IN}"
        )
    if status in (409, 412):
        return HubError(f"{what}: {repo} was changed at the same time{told}; try again")
    if status == 429:
        return UnreachableError(f"{what}: too many requests (429){told}; wait, then try again")
    if status >= 500:
        return UnreachableError(f"{what}: the Hub has trouble ({status}){told}; try again later")
    return HubError(f"{what}: the Hub answered {status}{told}")


def _without_status(causes: list[BaseException], what: str) -> TlAttributionError:
    if any(isinstance(c, (OfflineModeIsEnabled, LocalEntryNotFoundError)) for c in causes):
        return UnreachableError(f"{what}: {_endpoint()} does not answer; try again")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in OF_THIS_MACHINE:
            return HubError(f"{what}: {cause.strerror}, on this machine: {cause.filename or ''}")
    if any(isinstance(c, OSError) or type(c).__module__.startswith(NETWORK) for c in causes):
        return UnreachableError(
            f"{what}: the connection to {_endpoint()} failed ({_plain(causes[-1])}); try again: "
            "what has arrived is not sent again"
        )
    return HubError(f"{what}: {_plain(causes[0])}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(causes: list[BaseException]) -> str:
    """The server's own words, if any."""
    said = (getattr(cause, "server_message", None) for cause in causes)
    return next((clean(str(text)) for text in said if text), "")


def _plain(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _endpoint() -> str:
    return constants.ENDPOINT


def clean(text: str) -> str:
    """One short line, without secrets."""
    return " ".join(without_secrets(text).split())[:300]


def without_secrets(text: str) -> str:
    """``text`` without tokens and without what follows the ``?`` of a link."""
    token = get_token()
    if token:
        text = text.replace(token, "…")
    text = re.sub(r"\bhf_[A-Za-z0-9]{10,}", "…", text)
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)
