"""``evaluate``: how well a dictionary stands in for the model's MLPs, on a dataset."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import torch

from tl_attribution.attribution.attribute import attribute
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.evaluation.results import AnswerMetrics, Distribution, Evaluation, GraphScores
from tl_attribution.evaluation.sums import EvaluationSums
from tl_attribution.hosts.opening import trainable
from tl_attribution.hosts.prompt import token_ids
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.progress import Progress, silent
from tl_attribution.replacement.context_batch import (
    ContextBatch,
    batch_contexts,
    contexts_per_batch,
)
from tl_attribution.replacement.prompt_run import AttachedDictionary, attach, prompt_run
from tl_attribution.replacement.replacement_model import replacement_model

if TYPE_CHECKING:
    from tl_attribution.training.contexts import Contexts

PromptsWithAnswers = Sequence[Union[str, tuple[str, str]]]  # noqa: UP007  # evaluated on Python 3.10
"""Prompts, or prompts with the answers that are expected."""

CONTEXT = 128
"""Tokens of a context unless told otherwise, or what the model takes if that is less."""
BLOCK = 32
"""Contexts that are read at a time, and the most in one forward pass unless told otherwise."""


def evaluate(
    model: Any,
    dictionary: Dictionary,
    dataset: Any,
    *,
    prompts: PromptsWithAnswers | Mapping[str, PromptsWithAnswers] | None = None,
    contexts: int = 200,
    context: int | None = None,
    concat: bool = True,
    column: str | None = None,
    graphs: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """How well a dictionary stands in for the model's MLPs, on ``contexts`` contexts of a dataset.

    ``dataset``: what :func:`~tl_attribution.training.datasets.open_contexts` opens with ``context``
    (tokens per context; None takes 128, or what the model takes if less), ``concat``, ``column``
    and ``seed``; or token ids as :class:`~tl_attribution.training.contexts.Contexts`.
    ``prompts``: texts, or pairs of a text and the one-token answer expected after it, to compare
    the most likely answers; a mapping reports each of its lists by name. ``graphs``: this many of
    the (first) list's prompts, drawn with ``seed``, are traced for their scores. ``batch_size``:
    contexts per forward pass; None takes up to 32, as many as fit 256 MiB
    (:data:`~tl_attribution.replacement.context_batch.PASS_BYTES`), which bounds the memory used.
    ``progress(done, total, what)`` is called as the work goes on.

    Positions of the prefix (the BOS token) and padding count nowhere. On the other tokens:

    - a layer at a time, from features on the model's own streams (a CLT's layer t from the features
      of all layers up to t): ``nmse`` Σ e² / Σ (y − mean y)² and ``explained_variance``
      1 − Σ (e − mean e)² / Σ (y − mean y)², which differ by the mean error (see
      :class:`~tl_attribution.evaluation.results.LayerEvaluation`); ``l0``, ``dead``, ``density``;
    - the model with that layer's MLP alone replaced, and the replacement model (all MLPs at once,
      features read its own streams; methods paper, "From cross-layer transcoder to replacement
      model"): top-1 ``agreement``, ``kl`` (model ‖ replaced) in nats, and ``loss_recovered``
      (CE ablated − CE replaced) / (CE ablated − CE model), where zero is written instead of the
      reconstruction, as SAELens's evals do.

    Sums are in float64 and independent of the number of tokens; the same call gives the same
    numbers, and another ``batch_size`` the same up to rounding. Raises InputError for arguments and
    data that cannot be used, and MismatchError for a dictionary of another model.
    """
    groups = _groups(prompts)
    _check(contexts, graphs, batch_size, groups)
    attached = attach(model, dictionary)
    report = silent if progress is None else progress
    with torch.no_grad():
        source = _source(attached.host, dataset, context, concat, column, seed, report)
        sums = EvaluationSums(attached)
        _count_in(sums, source, contexts, batch_size, report)
        answers = {name: _answers(attached, group, report) for name, group in groups.items()}
        scores = _graph_scores(attached, groups, graphs, seed, report)
    return sums.evaluation(answers, scores)


def _groups(
    prompts: PromptsWithAnswers | Mapping[str, PromptsWithAnswers] | None,
) -> dict[str, list[tuple[str, str | None]]]:
    """Every list of prompts by name, each prompt with its answer or None."""
    if prompts is None:
        return {}
    named = prompts if isinstance(prompts, Mapping) else {"prompts": prompts}
    groups: dict[str, list[tuple[str, str | None]]] = {}
    for name, group in named.items():
        if isinstance(group, str) or not group:
            raise InputError(f"{name} must be a list of at least one prompt, got {group!r}")
        groups[name] = [_pair(name, prompt) for prompt in group]
    return groups


def _pair(name: str, prompt: Any) -> tuple[str, str | None]:
    match prompt:
        case str():
            return prompt, None
        case (str(text), str(answer)):
            return text, answer
    raise InputError(f"{name}: expected a text or a pair (text, answer), got {prompt!r}")


def _check(
    contexts: int, graphs: int, batch_size: int | None, groups: Mapping[str, Sequence[Any]]
) -> None:
    if contexts < 1:
        raise InputError(f"contexts must be at least 1, got {contexts}")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if graphs < 0:
        raise InputError(f"graphs must be 0 or more, got {graphs}")
    if graphs and not groups:
        raise InputError(f"graphs={graphs} needs prompts to trace; give prompts=[...]")
    name, first = next(iter(groups.items()), ("prompts", ()))
    if graphs > len(first):
        raise InputError(f"graphs={graphs} is more than the {len(first)} prompts of {name!r}")


class _Source(NamedTuple):
    """How many rows there are (None: a stream), and how to get some: (first, how many)."""

    n_rows: int | None
    rows: Callable[[int, int], Contexts]


def _source(
    host: Traceable,
    dataset: Any,
    context: int | None,
    concat: bool,
    column: str | None,
    seed: int,
    progress: Progress,
) -> _Source:
    from tl_attribution.training.contexts import Contexts
    from tl_attribution.training.datasets import open_contexts

    if isinstance(dataset, Contexts):
        ids, lengths = dataset
        return _Source(
            len(ids), lambda start, n: Contexts(ids[start : start + n], lengths[start : start + n])
        )
    length = min(CONTEXT, host.n_ctx) if context is None else context
    source = open_contexts(
        dataset,
        trainable(host),
        context=length,
        concat=concat,
        column=column,
        seed=seed,
        progress=progress,
    )
    return _Source(source.n_rows, source.rows)


def _batches(
    attached: AttachedDictionary, source: _Source, total: int, batch_size: int | None
) -> Iterator[tuple[int, ContextBatch]]:
    """The first ``total`` contexts without padding, in batches, each with the number of contexts
    before it. Contexts that have nothing to predict (one token) are left out. Raises InputError if
    none is left."""
    n_usable, block = 0, batch_size or BLOCK
    for start in range(0, total, block):
        rows = source.rows(start, min(block, total - start))
        pairs = zip(rows.ids, rows.lengths.tolist(), strict=True)
        usable = [token_ids(attached.host, ids[:length]) for ids, length in pairs if length > 1]
        n_usable += len(usable)
        longest = max(map(len, usable), default=1)
        size = batch_size or contexts_per_batch(attached, longest)
        for first in range(0, len(usable), size):
            yield start + first, batch_contexts(attached, usable[first : first + size])
    if not n_usable:
        raise InputError(
            f"none of the dataset's {total} contexts has two tokens; give more or longer texts"
        )


def _count_in(
    sums: EvaluationSums,
    source: _Source,
    contexts: int,
    batch_size: int | None,
    progress: Progress,
) -> None:
    total = contexts if source.n_rows is None else min(contexts, source.n_rows)

    def add(before: int, batch: ContextBatch) -> None:
        sums.add(batch, lambda share: progress(before + int(share * len(batch)), total, "contexts"))

    for before, batch in _batches(sums.attached, source, total, batch_size):
        add(before, batch)


def _answers(
    attached: AttachedDictionary, group: list[tuple[str, str | None]], progress: Progress
) -> AnswerMetrics:
    """The most likely next tokens of model and replacement model, against each other and against
    the expected answers."""
    host = attached.host
    expected = [None if answer is None else _answer_ids(host, answer) for _, answer in group]
    same, correct = 0, {"model": 0, "replacement": 0}
    for done, ((text, _), answer) in enumerate(zip(group, expected, strict=True)):
        progress(done, len(group), "prompts")
        replaced = replacement_model(attached, text)
        by_model = int(replaced.host_run().logits[-1].argmax())
        by_replacement = int(replaced.all_layers()[-1].argmax())
        same += by_model == by_replacement
        correct["model"] += answer is not None and by_model in answer
        correct["replacement"] += answer is not None and by_replacement in answer
    answered = sum(answer is not None for answer in expected)
    return AnswerMetrics(
        prompts=len(group),
        agreement=same / len(group),
        answered=answered,
        model_accuracy=correct["model"] / answered if answered else None,
        replacement_accuracy=correct["replacement"] / answered if answered else None,
    )


def _answer_ids(host: Traceable, answer: str) -> set[int]:
    """The token that is the answer, as it stands or after a space. Raises InputError if neither is
    one token of the vocabulary."""
    answer_ids: set[int] = set()
    for text in {answer, f" {answer.lstrip()}"}:
        ids = host.tokenize(text, with_bos=False)
        if len(ids) == 1 and host.token_strings(ids)[0].strip() == answer.strip():
            answer_ids |= set(ids)
    if not answer_ids:
        parts = ", ".join(
            repr(t) for t in host.token_strings(host.tokenize(answer, with_bos=False))
        )
        raise InputError(
            f"the answer {answer!r} is not one token of {host.name} (it is read as {parts}); it is "
            "compared with the most likely next token, so give the answer's first token"
        )
    return answer_ids


def _graph_scores(
    attached: AttachedDictionary,
    groups: Mapping[str, Sequence[tuple[str, str | None]]],
    graphs: int,
    seed: int,
    progress: Progress,
) -> GraphScores | None:
    if not graphs:
        return None
    prompts = [prompt for prompt, _ in next(iter(groups.values()))]
    sample = sorted(random.Random(seed).sample(range(len(prompts)), graphs))
    columns: dict[str, list[float]] = {"replacement": [], "completeness": [], "residual": []}
    for done, i in enumerate(sample):
        progress(done, graphs, "graphs")
        graph = attribute(prompt_run(attached, prompts[i]))
        for name, score in graph.scores()._asdict().items():
            columns[name].append(score)
        columns["residual"].append(graph.residual())
    return GraphScores(graphs, **{name: _distribution(column) for name, column in columns.items()})


def _distribution(numbers: list[float]) -> Distribution:
    """Quartiles are interpolated linearly, as NumPy's are."""
    exact = torch.tensor(numbers, dtype=torch.float64)
    at = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    return Distribution(float(exact.mean()), *exact.quantile(at).tolist())
