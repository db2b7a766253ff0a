"""Runs docs/tutorial.py as a notebook and writes docs/tutorial.ipynb and docs/tutorial.md.

python docs/site/notebook.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat import write as write_notebook

DOCS = Path(__file__).parents[1]
SCRIPT, NOTEBOOK, PAGE = (DOCS / f"tutorial{suffix}" for suffix in (".py", ".ipynb", ".md"))
SECONDS = 600


def read() -> NotebookNode:
    """The script as a notebook, with ids that stay the same."""
    notebook = jupytext.read(SCRIPT)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    return notebook


def execute() -> NotebookNode:
    """The notebook, run offline in an empty folder; only what it prints and shows as text stays."""
    notebook = read()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type != "stream":
                    output.data = {"text/plain": output.data["text/plain"]}
    return notebook


def page(notebook: NotebookNode) -> str:
    """The notebook as Markdown: text, code, and below it what it printed."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        text = "".join(o.text if "text" in o else o.data["text/plain"] for o in cell.outputs)
        if text.strip():
            lines = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
            parts.append(f"```text\n{lines}\n```")
    foot = f"This page as a notebook: [{NOTEBOOK.name}]({NOTEBOOK.name})."
    return "\n\n".join([*parts, "---", foot]) + "\n"


if __name__ == "__main__":
    run = execute()
    write_notebook(run, NOTEBOOK)
    PAGE.write_text(page(run))
    print(f"wrote {NOTEBOOK.name} and {PAGE.name}")
