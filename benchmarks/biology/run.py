"""Run the studies as notebooks and write their pages.

python benchmarks/biology/run.py [STUDY ...]

A study is a script in jupytext's percent format. Run here, it becomes docs/biology/STUDY.ipynb, the
page STUDY.md with its figures, and an entry of results.json; then the table of all studies is
rewritten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from nbformat import write as write_notebook

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "docs" / "biology"
STUDIES = ("two_hops", "countries", "languages", "addition", "days", "people")
RESULTS = "application/json"
SECONDS = 1200


def execute(study: str) -> NotebookNode:
    """Run a study's notebook, and remove everything that differs from run to run."""
    notebook = jupytext.read(HERE / f"{study}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        _drop(cell, lambda output: output.get("name") == "stderr")  # progress bars and the like
    return notebook


def _drop(cell: NotebookNode, unwanted: Callable[[NotebookNode], bool]) -> None:
    if "outputs" in cell:
        cell.outputs = [output for output in cell.outputs if not unwanted(output)]


def _is_results(output: NotebookNode) -> bool:
    return RESULTS in output.get("data", {})


def results_of(notebook: NotebookNode) -> dict[str, Any]:
    """The results that the study reported with ``pages.finish``."""
    for cell in reversed(notebook.cells):
        for output in cell.get("outputs", []):
            if _is_results(output):
                return dict(output.data[RESULTS])
    raise SystemExit("the study does not end with pages.finish(results)")


def page(study: str, notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The study's text, tables and figures as Markdown, without code; figures by file name."""
    shown = deepcopy(notebook)
    for cell in shown.cells:
        _drop(cell, _is_results)
    body, resources = MarkdownExporter(exclude_input=True).from_notebook_node(
        shown, resources={"unique_key": study, "output_files_dir": ""}
    )
    figures = dict(resources["outputs"])
    names = iter(_figure_names(shown))
    for old in sorted(figures, key=body.index):
        name = f"{study}_{next(names)}.svg"
        body = body.replace(f"![svg]({old})", f"![{name[:-4].replace('_', ' ')}]({name})")
        figures[name] = figures.pop(old)
    source = f"../../benchmarks/biology/{study}.py"
    foot = (
        f"Made by [{study}.py]({source}); the same [as a notebook]({study}.ipynb), with its code."
    )
    lines = [line.rstrip() for line in f"{body.strip()}\n\n---\n\n{foot}\n".splitlines()]
    tidy = [a for a, b in zip(lines, ["x", *lines], strict=False) if a or b]
    return "\n".join(tidy) + "\n", figures


def _figure_names(notebook: NotebookNode) -> list[str]:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return [o.metadata["name"] for o in outputs if "image/svg+xml" in o.get("data", {})]


def write(study: str, notebook: NotebookNode) -> None:
    """The notebook, the page, the figures and the results of a study."""
    text, figures = page(study, notebook)
    for old in OUT.glob(f"{study}_*.svg"):
        old.unlink()
    for name, content in figures.items():
        (OUT / name).write_bytes(content)
    (OUT / f"{study}.md").write_text(text)
    write_notebook(notebook, OUT / f"{study}.ipynb")
    known = committed()
    known[study] = results_of(notebook)
    ordered = {name: known[name] for name in STUDIES if name in known}
    (OUT / "results.json").write_text(json.dumps(ordered, indent=1) + "\n")


def committed() -> dict[str, dict[str, Any]]:
    """The results in docs/, by study."""
    path = OUT / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


INDEX = """# The biology of a small language model

Each page says which steps Atlas, the bundled model, should be taking, draws an attribution graph,
finds the features of a step by their activation over [Atlas's tables](../atlas.md#the-tables), and
puts the hypothesis to the test: it gives those features the values of another state, country or
word, and looks whether the answer follows. The control changes as many random active features, in
the same layers and at the same positions, to the same values.

{table}
`make biology` runs the studies and writes these pages, notebooks and numbers. What a swap is, is in
[Interventions](../interventions.md); how graphs are read from Python, in
[Reading a circuit](../reading.md).
"""


def index(results: dict[str, dict[str, Any]]) -> str:
    """The table of all studies: what was swapped, how often the wanted answer came, the control."""
    rows = ["| study | what was changed | of | wanted answer | random features |",
            "| --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for study, result in results.items():
        for test in result["tests"]:
            rows.append(
                f"| [{result['title']}]({study}.md) | {test['what']} | {test['n']:,} | "
                f"{100 * test['rate']:.1f}% | {100 * test['control']:.1f}% |"
            )
    return INDEX.format(table="\n".join(rows) + "\n")


def main() -> None:
    """Run the studies that are named, or all."""
    named = sys.argv[1:] or [s for s in STUDIES if (HERE / f"{s}.py").exists()]
    if unknown := set(named) - set(STUDIES):
        raise SystemExit(
            f"no study is named {', '.join(sorted(unknown))}; {', '.join(STUDIES)} are"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    for study in named:
        print(f"running {study}", flush=True)
        write(study, execute(study))
    (OUT / "README.md").write_text(index(committed()))


if __name__ == "__main__":
    main()
