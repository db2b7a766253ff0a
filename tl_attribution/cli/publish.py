"""``tl-attribution publish``: a dictionary on the Hugging Face Hub, in one commit."""

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
        metavar="PATH", help="A dictionary's folder, or its training run's.", show_default=False
    ),
]
Repo = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Made if there is none.")]
Private = Annotated[bool, typer.Option("--private", help="Only for those with access.")]
Revision = Annotated[str | None, typer.Option(help="The branch. Else main.", show_default=False)]
Tag = Annotated[str | None, typer.Option(help="A name for this version.", show_default=False)]
Licence = Annotated[
    str | None, typer.Option(help="As the Hub writes it, like mit.", show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the files and the card; send nothing.")
]


def publish(
    path: Dictionary,
    repo: Repo,
    private: Private = False,
    revision: Revision = None,
    tag: Tag = None,
    licence: Licence = None,
    dry_run: DryRun = False,
) -> None:
    """Publish a dictionary with its evaluation and a model card, whole or not at all. The card is
    made, or the README.md in the folder."""
    from tl_attribution.cli import terminal
    from tl_attribution.dictionaries import hub, publishing
    from tl_attribution.text import printable

    hub.check_repo(repo)
    publication = publishing.gather(path, licence)
    console = terminal.console()
    _files(console, publication)
    if dry_run:
        console.print("\nREADME.md\n", style="bold")
        for line in hub.hub().card(publication, repo).splitlines():
            console.print(printable(line), soft_wrap=True)
        console.print("nothing was sent (--dry-run)", style="bold")
        return
    terminal.no_bars_in_pipes()
    done = hub.hub().publish(publication, repo, private=private, revision=revision, tag=tag)
    where, model = printable(done.address), publication.config["model_name"]
    console.print(f"\npublished at {printable(done.url)}, commit {done.commit}", soft_wrap=True)
    console.print(
        f"  tl-attribution trace PROMPT --model {printable(str(model or 'MODEL'))} --dictionary "
        f"{where}",
        soft_wrap=True,
    )


def _files(console: Console, publication: Publication) -> None:
    """Print what is published."""
    from tl_attribution.text import printable

    for name, file in publication.files.items():
        size = file.stat().st_size
        console.print(f"{size / 1e6:>12,.2f} MB  {printable(name)}", soft_wrap=True)
    if not publication.evaluation:
        console.print(
            "There is no evaluation.json beside the weights: tl-attribution evaluate PATH … --json "
            "PATH/evaluation.json writes one for the model card",
            style="dim",
            soft_wrap=True,
        )
