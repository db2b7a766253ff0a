"""``tl-attribution publish``: publish a dictionary to the Hugging Face Hub, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tl_attribution.dictionaries.hub import Publication

Dictionary = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="Folder of a dictionary or of its training run.", show_default=False
    ),
]
Repo = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Created if it does not exist.")]
Private = Annotated[bool, typer.Option("--private", help="Create a private repository.")]
Revision = Annotated[
    str | None, typer.Option(help="The branch. Default: main.", show_default=False)
]
Tag = Annotated[str | None, typer.Option(help="Tag of the commit.", show_default=False)]
License = Annotated[
    str | None, typer.Option(help="License identifier of the Hub, such as mit.", show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the files and the card; upload nothing.")
]


def publish(
    path: Dictionary,
    repo: Repo,
    private: Private = False,
    revision: Revision = None,
    tag: Tag = None,
    license: License = None,
    dry_run: DryRun = False,
) -> None:
    """Publish a dictionary with its evaluation and a model card, in one commit. The card is the
    folder's README.md, or generated."""
    from tl_attribution.cli import terminal
    from tl_attribution.dictionaries import hub, publishing
    from tl_attribution.text import printable

    hub.check_repo(repo)
    publication = publishing.gather(path, license)
    console = terminal.console()
    _show_files(console, publication)
    if dry_run:
        console.print("\nREADME.md\n", style="bold")
        for line in hub.hub().card(publication, repo).splitlines():
            console.print(printable(line), soft_wrap=True)
        console.print("nothing was uploaded (--dry-run)", style="bold")
        return
    terminal.hide_hub_bars_in_pipes()
    published = hub.hub().publish(publication, repo, private=private, revision=revision, tag=tag)
    address, model = printable(published.address), publication.config["model_name"]
    console.print(
        f"\npublished at {printable(published.url)}, commit {published.commit}", soft_wrap=True
    )
    console.print(
        f"  tl-attribution trace PROMPT --model {printable(str(model or 'MODEL'))} --dictionary "
        f"{address}",
        soft_wrap=True,
    )


def _show_files(console: Console, publication: Publication) -> None:
    """Print the files that are published."""
    from tl_attribution.text import printable

    for name, file in publication.files.items():
        size = file.stat().st_size
        console.print(f"{size / 1e6:>12,.2f} MB  {printable(name)}", soft_wrap=True)
    if not publication.evaluation:
        console.print(
            "There is no evaluation.json beside the weights. To write one for the model card: "
            "tl-attribution evaluate PATH … --json PATH/evaluation.json",
            style="dim",
            soft_wrap=True,
        )
