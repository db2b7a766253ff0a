"""The command line starts without the libraries that take seconds to import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"datasets", "networkx", "numpy", "torch", "transformer_lens", "transformers"}
RUN = """
import sys
from tl_attribution.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "trace"),
        (["trace", "--help"], "closed_form|autograd"),
        (["intervene", "--help"], "iterative"),
        (["list"], "gemma"),
        (["list", "--model", "atlas"], "atlas"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_list_import_neither_torch_nor_a_host(arguments: list[str], shown: str) -> None:
    command = [sys.executable, "-c", RUN, *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    imported = set(done.stderr.split())
    assert "tl_attribution.cli.listing" in imported
    assert not imported & HEAVY


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "tl_attribution", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trace" in done.stdout


def test_a_terminal_that_cannot_show_a_character_gets_it_escaped() -> None:
    command = [sys.executable, "-m", "tl_attribution", "list"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"reads \u2192 writes" in done.stdout
