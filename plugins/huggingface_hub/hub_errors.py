"""Errors of huggingface_hub as errors of this package: one line with a remedy and no secrets."""

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
"""Prefixes of the modules whose errors are connection errors."""
LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
"""Loggers of every retry, with its URL."""
PROGRAMMING_ERRORS = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError)
"""Raised by bugs and not by the Hub: not translated."""


class _WithoutSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


_FILTER = _WithoutSecrets()
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(_FILTER)


class UnreachableError(HubError):
    """The Hub did not answer or is overloaded: the cache is used instead."""


@contextmanager
def translate_errors(what: str, repo: str) -> Iterator[None]:
    """Translate every error of huggingface_hub into a HubError or NotFoundError that begins with
    ``what`` (such as "cannot download …"). It is not chained: it may show signed links."""
    try:
        yield
    except (TlAttributionError, *PROGRAMMING_ERRORS):
        raise
    except Exception as error:
        raise _translated(error, what, repo) from None


def _translated(error: Exception, what: str, repo: str) -> TlAttributionError:
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
    if status == 401 and _server_message(causes).startswith("Invalid"):
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
    message = _server_message(causes)
    details = f" ({message})" if message else ""
    if status is None:
        return _without_status(causes, what)
    if status == 403:
        return HubError(
            f"{what}: your token may not do that with {repo}{details}. Use one with the "
            f"permission: {LOG_IN}"
        )
    if status in (409, 412):
        return HubError(f"{what}: {repo} was changed at the same time{details}; try again")
    if status == 429:
        return UnreachableError(f"{what}: too many requests (429){details}; wait, then try again")
    if status >= 500:
        return UnreachableError(f"{what}: the Hub has trouble ({status}){details}; try again later")
    return HubError(f"{what}: the Hub answered {status}{details}")


def _without_status(causes: list[BaseException], what: str) -> TlAttributionError:
    if any(isinstance(c, (OfflineModeIsEnabled, LocalEntryNotFoundError)) for c in causes):
        return UnreachableError(f"{what}: {_endpoint()} does not answer; try again")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in LOCAL_ERRNOS:
            return HubError(f"{what}: {cause.strerror}, on this machine: {cause.filename or ''}")
    if any(isinstance(c, OSError) or type(c).__module__.startswith(NETWORK) for c in causes):
        return UnreachableError(
            f"{what}: the connection to {_endpoint()} failed ({_describe(causes[-1])}); try again: "
            "what has arrived is not sent again"
        )
    return HubError(f"{what}: {_describe(causes[0])}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _server_message(causes: list[BaseException]) -> str:
    """The server's message, if any."""
    messages = (getattr(cause, "server_message", None) for cause in causes)
    return next((clean(str(message)) for message in messages if message), "")


def _describe(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _endpoint() -> str:
    return constants.ENDPOINT


def clean(text: str) -> str:
    """``text`` as one short line without secrets."""
    return " ".join(without_secrets(text).split())[:300]


def without_secrets(text: str) -> str:
    """``text`` without tokens and without the query strings of URLs."""
    token = get_token()
    if token:
        text = text.replace(token, "…")
    text = re.sub(r"\bhf_[A-Za-z0-9]{10,}", "…", text)
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)
