"""Runs the Python in the documents whose output they show, and writes that output anew.

python docs/refresh.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SHOWN = re.compile(r"(^```python\n(.*?)^```\n\n```text\n).*?(^```)", re.MULTILINE | re.DOTALL)
"""A block of Python and, right below it, what it prints."""


def output(code: str) -> str:
    """What ``code`` prints, run by itself in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def main() -> None:
    """Refresh every document beside this file, but those that a script beside them makes whole."""
    for document in sorted(Path(__file__).parent.glob("*.md")):
        if document.with_suffix(".py").exists():
            continue
        text = document.read_text()
        fresh = SHOWN.sub(lambda block: block[1] + output(block[2]) + block[3], text)
        if fresh != text:
            document.write_text(fresh)
            print(f"wrote {document.name}")


if __name__ == "__main__":
    main()
