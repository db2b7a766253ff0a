"""Publish a dictionary to the Hub in one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import get_session

from tl_attribution.dictionaries.hub import Address, Publication, Published
from tl_attribution.errors import HubError
from tl_attribution.plugins.huggingface_hub.card import card
from tl_attribution.plugins.huggingface_hub.hub_errors import translate_errors

DICTIONARY_FILE = re.compile(r"layer_\d+\.safetensors|evaluation\.json")
"""Files of an earlier dictionary, deleted unless the new one has them too."""


TIMEOUT = 300.0
"""Seconds until a request without an answer fails; huggingface_hub has no limit."""


class Branch(NamedTuple):
    """The branch of the commit."""

    name: str
    head: str
    """The parent commit."""
    files: list[str]
    is_new: bool
    """Whether it was created for this commit."""


def publish(
    publication: Publication, repo: str, *, private: bool, revision: str | None, tag: str | None
) -> Published:
    """Publish to the repository ``repo``, created if it does not exist, on the branch ``revision``
    (default: main), and tag the commit.

    Large files are uploaded first, and one commit makes everything visible at once. A failed
    attempt leaves the earlier version in place; a new repository then stays, empty, so that the
    next attempt need not upload the same files again. Raises NotFoundError or HubError; nothing is
    published then.
    """
    api, what = HfApi(), f"cannot publish to {repo}"
    with _timeout():
        if _create_repo(api, repo, private):
            what += " (the new repository is empty so far)"
        with translate_errors(what, repo):
            branch = _branch(api, repo, revision, tag)
            commit = _commit(api, repo, branch, publication)
        if tag is not None:
            tagging = f"published to {repo} as {commit[:12]}, but cannot tag it {tag}"
            with translate_errors(tagging, repo):
                api.create_tag(repo, tag=tag, revision=commit)
    where = tag or (branch.name if revision else "main")
    return Published(str(Address(repo, revision=where)), f"{api.endpoint}/{repo}", commit)


def _create_repo(api: HfApi, repo: str, private: bool) -> bool:
    """Create the repository if it does not exist; returns whether it was created. Raises HubError
    for a public one that should be private."""
    what = f"cannot publish to {repo}"
    with translate_errors(what, repo):
        info = None
        with suppress(RepositoryNotFoundError):
            info = api.model_info(repo, timeout=TIMEOUT)
        if info is None:
            api.create_repo(repo, private=private or None, exist_ok=True)
            return True
    if private and not info.private:
        raise HubError(
            f"{what}: it exists and is public, and --private would not hide it; make it private in "
            "its settings, or choose another name"
        )
    return False


def _commit(api: HfApi, repo: str, branch: Branch, publication: Publication) -> str:
    """Upload and commit; if that fails, a new branch is deleted, since it would equal main."""
    operations = [
        *(CommitOperationAdd(name, str(file)) for name, file in publication.files.items()),
        CommitOperationAdd("README.md", card(publication, repo).encode()),
        *(
            CommitOperationDelete(name, is_folder=False)
            for name in branch.files
            if DICTIONARY_FILE.fullmatch(name) and name not in publication.files
        ),
    ]
    try:
        commit_info = api.create_commit(
            repo,
            operations,
            commit_message=f"A {publication.config['kind']} of {publication.config['model_name']}",
            revision=branch.name,
            parent_commit=branch.head,
        )
    except BaseException:
        if branch.is_new:
            with suppress(Exception):
                api.delete_branch(repo, branch=branch.name)
        raise
    return commit_info.oid


def _branch(api: HfApi, repo: str, revision: str | None, tag: str | None) -> Branch:
    """The branch, created from main if it does not exist. Raises HubError if the tag exists."""
    name = revision or "main"
    refs = api.list_repo_refs(repo)
    if tag in {ref.name for ref in refs.tags}:
        raise HubError(f"{repo} has a tag {tag} already, and a tag is never moved; choose another")
    is_new = name not in {ref.name for ref in refs.branches}
    if is_new:
        api.create_branch(repo, branch=name)
        refs = api.list_repo_refs(repo)
    head = next(ref.target_commit for ref in refs.branches if ref.name == name)
    return Branch(name, head, api.list_repo_files(repo, revision=head), is_new)


@contextmanager
def _timeout() -> Iterator[None]:
    """Set the timeout of every request to ``TIMEOUT``."""
    session: Any = get_session()
    if not hasattr(session, "timeout"):  # clients before 1.0 have none for a session
        yield
        return
    before, session.timeout = session.timeout, TIMEOUT
    try:
        yield
    finally:
        session.timeout = before
