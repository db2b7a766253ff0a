"""``tl-attribution evaluate``: measure how well a dictionary replaces the MLPs of its model."""

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
    typer.Argument(
        metavar="DATASET", help="A folder or a .jsonl or .txt file. Default: Atlas's questions."
    ),
]
Contexts = Annotated[int, typer.Option(min=1, help="Number of contexts to evaluate on.")]
Context = Annotated[
    int | None,
    typer.Option(min=2, help="Tokens per context. Default: 128, or the model's maximum."),
]
Concat = Annotated[
    bool, typer.Option("--concat/--no-concat", help="Join texts, or one context per text.")
]
Column = Annotated[str | None, typer.Option(help="The dataset's column of text.")]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompts", help="File of prompts, one per line, or prompt TAB answer."),
]
Graphs = Annotated[int, typer.Option(min=0, help="Number of prompts to trace for graph scores.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Plot the layers (.svg or .png).")]


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
    seed: common.Seed = 0,
    json: common.JsonFile = None,
    plot: Plot = None,
) -> None:
    """Evaluate DICTIONARY: its reconstruction, and the model's predictions with it in place of the
    MLPs."""
    _check(model, dataset, json, plot)
    groups: Mapping[str, Any] | None = None
    if prompts is not None:
        groups = {"prompts": _read(prompts)}
    texts: str | list[str] | None = dataset
    if texts is None:
        model, concat = common.ATLAS, False
        texts, questions = atlas(contexts, seed)
        groups = groups or questions
    evaluation, seconds = _compute(
        common.ModelOptions(model, dictionary, reads, writes, k, trained_on),
        texts,
        prompts=groups,
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

    files = [path for path in (json, plot) if path]
    evaluation_report.show(terminal.console(), evaluation, seconds, files)


def _check(model: str | None, dataset: str | None, json: Path | None, plot: Path | None) -> None:
    """Check options before the computation. Raises InputError."""
    if dataset is None and model not in (None, common.ATLAS):
        raise InputError(
            f"only {common.ATLAS!r} has bundled questions; give a DATASET to evaluate {model!r} on"
        )
    common.check_destinations({"json": json, "plot": plot})
    if plot:
        from tl_attribution.evaluation.plot import check_plot

        check_plot(plot)


def _read(file: Path) -> list[str | tuple[str, str]]:
    """Read prompts from a file, with their answers where a line has a tab; skip empty lines."""
    if not file.is_file():
        raise NotFoundError(f"no file of prompts at {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text: {error}") from error
    prompts: list[str | tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        prompt, tab, answer = line.partition("\t")
        if not line.strip():
            continue
        if not prompt or "\t" in answer or bool(tab) != bool(answer):
            raise InputError(f"{file}, line {number}: expected a prompt, or prompt TAB answer")
        prompts.append((prompt, answer) if tab else prompt)
    if not prompts:
        raise InputError(f"{file} has no prompts; expected one per line")
    return prompts


def atlas(n: int, seed: int) -> tuple[list[str], dict[str, Sequence[tuple[str, str]]]]:
    """Draw ``n`` of Atlas's questions: as sentences with their answers, and as prompts with answers
    in two groups, ``all`` and ``held out`` of training (another ``n``)."""
    from tl_attribution.atlas import corpus

    questions, rng = corpus.questions(), random.Random(seed)
    groups = {"all": questions, "held out": [q for q in questions if q.held_out]}
    sample = {name: rng.sample(group, min(n, len(group))) for name, group in groups.items()}
    texts = [corpus.sentence(q.prompt, q.answer) for q in sample["all"]]
    return texts, {name: [(q.prompt, q.answer) for q in some] for name, some in sample.items()}


def _compute(options: common.ModelOptions, dataset: Any, **settings: Any) -> tuple[Any, float]:
    """Load and evaluate; returns the evaluation and the seconds that it took."""
    from tl_attribution.cli import terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {options.model or options.dictionary}")
        model, dictionary = common.load(options, progress)
        progress(0, 0, "evaluating")
        run = tla.evaluate
        start = time.perf_counter()
        evaluation = run(model, dictionary, dataset, progress=progress, **settings)
        return evaluation, time.perf_counter() - start
