"""Plugin for the Hugging Face Hub: download and publish dictionaries. :func:`install` runs when
huggingface_hub is imported."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_attribution.dictionaries.hub import Address, Progress, Publication, Published


def install(module: ModuleType) -> None:
    """Register the Hub. Idempotent."""
    from tl_attribution.extend import HUBS

    HUBS.register("huggingface_hub", HuggingFaceHub())


class HuggingFaceHub:
    """:class:`tl_attribution.dictionaries.hub.Hub`, implemented with huggingface_hub, which
    is imported on use."""

    def download(self, address: Address, progress: Progress | None) -> Path:
        """See :func:`.download.download` and :func:`.linked_files.link_files`."""
        from tl_attribution.plugins.huggingface_hub.download import download
        from tl_attribution.plugins.huggingface_hub.linked_files import link_files

        return link_files(download(address, progress), progress)

    def publish(
        self,
        publication: Publication,
        repo: str,
        *,
        private: bool,
        revision: str | None,
        tag: str | None,
    ) -> Published:
        """See :func:`.publish.publish`."""
        from tl_attribution.plugins.huggingface_hub.publish import publish

        return publish(publication, repo, private=private, revision=revision, tag=tag)

    def card(self, publication: Publication, repo: str) -> str:
        """See :func:`.card.card`."""
        from tl_attribution.plugins.huggingface_hub.card import card

        return card(publication, repo)
