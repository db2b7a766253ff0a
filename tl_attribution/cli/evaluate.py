"""``tl-attribution evaluate``: does a dictionary tell the truth about its model."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.cli import common
from tl_attribution.errors import FormatError, InputError, NotFoundError

DictionaryName = Annotated[
    str,
    typer.Argument(
        metavar="DICTIONARY",
        help="A name (see list), a path, org/name on the Hub, or 'neurons'.",
        show_default=False,
    ),
]
Dataset = Annotated[
    str | None,
    typer.Argument(help="A folder or a .jsonl or .txt file. Else Atlas's questions."),
]
Contexts = Annotated[int, typer.Option(min=1, help="Evaluate on so many contexts.")]
Context = Annotated[
    int | None,
    typer.Option(min=2, help="Tokens of a context. Else 128, or what the model takes."),
]
Concat = Annotated[
    bool, typer.Option("--concat/--no-concat", help="Join texts, or one context a text.")
]
Column = Annotated[str | None, typer.Option(help="Where the dataset's text is.")]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompts", help="File of prompts, one a line, or prompt TAB answer."),
]
Graphs = Annotated[int, typer.Option(min=0, help="Trace so many of the prompts for their scores.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write all numbers as JSON.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the layers (.svg or .png).")]


def evaluate(
    dictionary: DictionaryName,
    dataset: Dataset = None,
    model: common.ModelName = None,
    reads: common.Reads = None,
    writes: common.Writes = None,
    k: common.K = None,
    trained_on: common.TrainedOn = None,
    contexts: Contexts = 200,
    context: Context = None,
    concat: Concat = True,
    column: Column = None,
    prompts: PromptFile = None,
    graphs: Graphs = 0,
    seed: Seed = 0,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """Evaluate DICTIONARY: what it reconstructs, and what the model still knows with it in place of
    its MLPs."""
    _check(model, dataset, json, plot)
    asked: Mapping[str, Any] | None = None if prompts is None else {"prompts": _read(prompts)}
    texts: str | list[str] | None = dataset
    if texts is None:
        model, concat = common.ATLAS, False
        texts, questions = atlas(contexts, seed)
        asked = asked or questions
    evaluation, seconds = _compute(
        common.Chosen(model, dictionary, reads, writes, k, trained_on),
        texts,
        prompts=asked,
        contexts=contexts,
        context=context,
        concat=concat,
        column=column,
        graphs=graphs,
        seed=seed,
    )
    common.write(evaluation.to_json, json)
    common.write(evaluation.plot, plot)

    from tl_attribution.cli import evaluation_report, terminal

    files = [f for f in (json, plot) if f]
    evaluation_report.show(terminal.console(), evaluation, seconds, files)


def _check(model: str | None, dataset: str | None, json: Path | None, plot: Path | None) -> None:
    """Fail before the work rather than after it."""
    if dataset is None and model not in (None, common.ATLAS):
        raise InputError(
            f"only {common.ATLAS!r} brings questions of its own; give a DATASET to evaluate "
            f"{model!r} on"
        )
    common.check_destinations({"json": json, "plot": plot})
    if plot:
        from tl_attribution.evaluation.plot import check_plot

        check_plot(plot)


def _read(file: Path) -> list[str | tuple[str, str]]:
    """Prompts of a file, with their answers where a line has a tab. Empty lines are left out."""
    if not file.is_file():
        raise NotFoundError(f"no file of prompts at {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error}") from error
    found: list[str | tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        prompt, tab, answer = line.partition("\t")
        if not line.strip():
            continue
        if not prompt or "\t" in answer or bool(tab) != bool(answer):
            raise InputError(f"{file}, line {number}: expected a prompt, or prompt TAB answer")
        found.append((prompt, answer) if tab else prompt)
    if not found:
        raise InputError(f"{file} has no prompts; expected one a line")
    return found


def atlas(n: int, seed: int) -> tuple[list[str], dict[str, Sequence[tuple[str, str]]]]:
    """``n`` of Atlas's questions as sentences with their answers, and the questions; and ``n`` of
    those that it never saw in training."""
    from tl_attribution.atlas import corpus

    every, drawn = corpus.questions(), random.Random(seed)
    groups = {"all": every, "held out": [q for q in every if q.held_out]}
    chosen = {name: drawn.sample(group, min(n, len(group))) for name, group in groups.items()}
    texts = [corpus.sentence(q.prompt, q.answer) for q in chosen["all"]]
    return texts, {name: [(q.prompt, q.answer) for q in some] for name, some in chosen.items()}


def _compute(chosen: common.Chosen, dataset: Any, **settings: Any) -> tuple[Any, float]:
    """The evaluation and the seconds it took once everything was loaded."""
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {chosen.model or chosen.dictionary}")
        model, dictionary = common.load(chosen, progress)
        progress(0, 0, "evaluating")
        run = tla.evaluate
        start = time.perf_counter()
        found = run(model, dictionary, dataset, progress=progress, **settings)
        return found, time.perf_counter() - start
