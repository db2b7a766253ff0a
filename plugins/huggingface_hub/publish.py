"""From a dictionary to a commit on the Hub: all of it or nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from tl_attribution.dictionaries.remote import Address, Publication, Published
from tl_attribution.errors import HubError
from tl_attribution.plugins.huggingface_hub.card import card
from tl_attribution.plugins.huggingface_hub.failures import told

OURS = re.compile(r"layer_\d+\.safetensors|evaluation\.json")
"""Files of an earlier dictionary that must go when the new one has no such file."""


class Branch(NamedTuple):
    """Where the commit goes."""

    name: str
    head: str
    """The commit that it follows."""
    files: list[str]


def publish(
    publication: Publication, repo: str, *, private: bool, revision: str | None, tag: str | None
) -> Published:
    """Publish to the repository ``repo``, which is made if there is none, on the branch
    ``revision`` (else main), and tag it.

    Large files go first, and one commit makes everything visible at once: a try that fails leaves
    what was published before, and trying again does not send again what has arrived. Raises
    NotFoundError or HubError for what goes wrong; nothing is published then.
    """
    api = HfApi()
    what = f"cannot publish to {repo}"
    with told(what, repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        hidden = api.model_info(repo).private
    if private and not hidden:
        raise HubError(
            f"{what}: it exists and is public, and --private would not hide it; make it private in "
            "its settings, or choose another name"
        )
    branch = _branch(api, repo, revision, tag)
    operations = [
        *(CommitOperationAdd(name, str(file)) for name, file in publication.files.items()),
        CommitOperationAdd("README.md", card(publication, repo).encode()),
        *(
            CommitOperationDelete(name, is_folder=False)
            for name in branch.files
            if OURS.fullmatch(name) and name not in publication.files
        ),
    ]
    with told(what, repo):
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"A {publication.config['kind']} of {publication.config['model_name']}",
            revision=branch.name,
            parent_commit=branch.head,
        )
    if tag is not None:
        with told(f"published to {repo} as {done.oid[:12]}, but cannot tag it {tag}", repo):
            api.create_tag(repo, tag=tag, revision=done.oid)
    where = tag or (branch.name if revision else "main")
    return Published(str(Address(repo, revision=where)), f"{api.endpoint}/{repo}", done.oid)


def _branch(api: HfApi, repo: str, revision: str | None, tag: str | None) -> Branch:
    """The branch as it is; a new one begins at main. Raises HubError if the tag is taken."""
    name = revision or "main"
    with told(f"cannot publish to {repo}", repo):
        refs = api.list_repo_refs(repo)
        if tag in {ref.name for ref in refs.tags}:
            raise HubError(
                f"{repo} has a tag {tag} already, and tags stay where they are; choose another"
            )
        if name not in {ref.name for ref in refs.branches}:
            api.create_branch(repo, branch=name)
            refs = api.list_repo_refs(repo)
        head = next(ref.target_commit for ref in refs.branches if ref.name == name)
        return Branch(name, head, api.list_repo_files(repo, revision=head))
