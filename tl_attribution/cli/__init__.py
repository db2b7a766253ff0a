"""The command line, one module per command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import io
import os
import platform
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from tl_attribution.cli.evaluate import evaluate
from tl_attribution.cli.intervene import intervene
from tl_attribution.cli.listing import list_names
from tl_attribution.cli.publish import publish
from tl_attribution.cli.trace import trace
from tl_attribution.cli.train import train
from tl_attribution.cli.validate import validate
from tl_attribution.errors import TlAttributionError

app = typer.Typer(
    name="tl-attribution",
    help="Attribution graphs: the features of a language model that caused its answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(trace)
app.command()(train)
app.command()(evaluate)
app.command("list")(list_names)
app.command()(publish)
app.command()(intervene)
app.command()(validate)


def _show_version(value: bool) -> bool:
    if value:
        hosts = ", ".join(f"{name} {version(name)}" for name in ("transformer-lens", "torch"))
        typer.echo(
            f"tl-attribution {version('tl-attribution')} "
            f"({hosts}, Python {platform.python_version()})"
        )
        raise typer.Exit
    return value


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show versions and exit."
        ),
    ] = False,
) -> None:
    """Attribution graphs: the features of a language model that caused its answer."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: with one line and code 2 for a TlAttributionError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without "→" gets it escaped
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of libraries; the commands have their own
    try:
        app(args=arguments, prog_name="tl-attribution")
    except TlAttributionError as error:
        from tl_attribution.text import printable

        typer.echo(f"tl-attribution: {printable(str(error))}", err=True)
        sys.exit(2)
