"""From a dictionary to a commit on the Hub: all of it or nothing."""

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
from tl_attribution.plugins.huggingface_hub.hub_errors import told

OURS = re.compile(r"layer_\d+\.safetensors|evaluation\.json")
"""Files of an earlier dictionary that must go when the new one has no such file."""


SILENCE = 300.0
"""Seconds for which the Hub may be silent after a request; huggingface_hub would wait for ever."""


class Branch(NamedTuple):
    """Where the commit goes."""

    name: str
    head: str
    """The commit that it follows."""
    files: list[str]
    made: bool
    """Whether it was made for the commit."""


def publish(
    publication: Publication, repo: str, *, private: bool, revision: str | None, tag: str | None
) -> Published:
    """Publish to the repository ``repo``, which is made if there is none, on the branch
    ``revision`` (else main), and tag it.

    Large files go first, and one commit makes everything visible at once: a try that fails leaves
    what was published before, and trying again does not send again what has arrived, for which a
    repository that was made stays, empty. Raises NotFoundError or HubError for what goes wrong;
    nothing is published then.
    """
    api, what = HfApi(), f"cannot publish to {repo}"
    with _not_for_ever():
        if _make(api, repo, private):
            what += " (it is made, and empty so far)"
        with told(what, repo):
            branch = _branch(api, repo, revision, tag)
            commit = _commit(api, repo, branch, publication)
        if tag is not None:
            with told(f"published to {repo} as {commit[:12]}, but cannot tag it {tag}", repo):
                api.create_tag(repo, tag=tag, revision=commit)
    where = tag or (branch.name if revision else "main")
    return Published(str(Address(repo, revision=where)), f"{api.endpoint}/{repo}", commit)


def _make(api: HfApi, repo: str, private: bool) -> bool:
    """Make the repository if there is none, and say whether there was none. Raises HubError for a
    public one that should be private."""
    what = f"cannot publish to {repo}"
    with told(what, repo):
        found = None
        with suppress(RepositoryNotFoundError):
            found = api.model_info(repo, timeout=SILENCE)
        if found is None:
            api.create_repo(repo, private=private or None, exist_ok=True)
            return True
    if private and not found.private:
        raise HubError(
            f"{what}: it exists and is public, and --private would not hide it; make it private in "
            "its settings, or choose another name"
        )
    return False


def _commit(api: HfApi, repo: str, branch: Branch, publication: Publication) -> str:
    """Send everything; a branch that was made for it goes again if that fails, since it would hold
    what main does."""
    operations = [
        *(CommitOperationAdd(name, str(file)) for name, file in publication.files.items()),
        CommitOperationAdd("README.md", card(publication, repo).encode()),
        *(
            CommitOperationDelete(name, is_folder=False)
            for name in branch.files
            if OURS.fullmatch(name) and name not in publication.files
        ),
    ]
    try:
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"A {publication.config['kind']} of {publication.config['model_name']}",
            revision=branch.name,
            parent_commit=branch.head,
        )
    except BaseException:
        if branch.made:
            with suppress(Exception):
                api.delete_branch(repo, branch=branch.name)
        raise
    return done.oid


def _branch(api: HfApi, repo: str, revision: str | None, tag: str | None) -> Branch:
    """The branch as it is; a new one begins at main. Raises HubError if the tag is taken."""
    name = revision or "main"
    refs = api.list_repo_refs(repo)
    if tag in {ref.name for ref in refs.tags}:
        raise HubError(
            f"{repo} has a tag {tag} already, and tags stay where they are; choose another"
        )
    made = name not in {ref.name for ref in refs.branches}
    if made:
        api.create_branch(repo, branch=name)
        refs = api.list_repo_refs(repo)
    head = next(ref.target_commit for ref in refs.branches if ref.name == name)
    return Branch(name, head, api.list_repo_files(repo, revision=head), made)


@contextmanager
def _not_for_ever() -> Iterator[None]:
    """Let no request wait longer than ``SILENCE``."""
    session: Any = get_session()
    if not hasattr(session, "timeout"):  # clients before 1.0 have none for a session
        yield
        return
    before, session.timeout = session.timeout, SILENCE
    try:
        yield
    finally:
        session.timeout = before
