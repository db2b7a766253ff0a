"""``attribute``: from a model, a prompt and a dictionary to an attribution graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch

from tl_attribution.attribution.answers import AnswerOptions, check_answer_options, run_answer
from tl_attribution.attribution.assembly import assemble
from tl_attribution.attribution.autograd import AutogradEngine
from tl_attribution.attribution.closed_form import ClosedFormEngine
from tl_attribution.attribution.engine import Engine
from tl_attribution.attribution.node_selection import check_selection
from tl_attribution.attribution.problem import AttributionProblem, pose_problem
from tl_attribution.attribution.targets import Target
from tl_attribution.attribution.tracing import GraphTensors, trace_all, trace_selected
from tl_attribution.choices import EngineName
from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError
from tl_attribution.graph.graph import Graph
from tl_attribution.progress import Progress
from tl_attribution.replacement.prompt_run import PromptOrGraph, prepare


def attribute(
    model: Any,
    prompt: PromptOrGraph | None = None,
    dictionary: Dictionary | None = None,
    *,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    targets: Sequence[Target] | Target | None = None,
    answer: str | Sequence[int] | None = None,
    answer_token: int | None = None,
    generate: int | None = None,
    coverage: float | None = None,
    max_features: int | None = None,
    prefix: int | None = None,
    engine: EngineName = "closed_form",
    progress: Progress | None = None,
) -> Graph:
    """The attribution graph of one prompt (methods paper, "Constructing an attribution graph").

    ``prompt``: text; chat messages (``[{"role": "user", "content": "…"}]``), which the model's chat
    template is put around; token ids, also as a tensor; or what a tokenizer returns. What
    :func:`tl_attribution.prepare` returned takes the place of model, prompt and dictionary.
    ``targets``: token strings or ids, or :class:`TokenTarget`, :class:`DifferenceTarget`,
    :class:`DirectionTarget`, :class:`FeatureTarget`; None takes the most likely next tokens, up to
    ``max_logits``, until ``logit_mass``. ``prefix``: number of leading positions that every prompt
    shares, whose features are not nodes; None asks the tokenizer (the BOS token, and the opening of
    its chat template where the prompt begins with it).

    ``answer``: a text, or token ids, that follows the prompt. Its tokens are the targets, each
    one's logit at the position before it, with equal weights; ``answer_token`` explains one of them
    by number (0: the first, -1: the last). ``generate``: the model answers first, with this many of
    its most likely tokens or until its EOS token; the last is explained, or ``answer_token``.

    By default every active feature is a node. ``coverage`` keeps at each layer the fewest features
    that hold this share of its influence, ``max_features`` the most influential; what the others
    contribute goes into ``graph.constant`` and ``graph.certificate`` bounds what they could change.
    ``engine="autograd"`` computes the same edges by automatic differentiation, slowly.

    The model may be on any device; the graph's tensors are on the CPU. Raises InputError,
    MismatchError (dictionary of another model), UnsupportedModelError, ProofError (the frozen model
    does not give back the host's activations) and TooLargeError.
    """
    if engine not in get_args(EngineName):
        raise InputError(f"engine must be one of {', '.join(get_args(EngineName))}, got {engine!r}")
    check_selection(coverage, max_features)
    settings = {
        "max_logits": max_logits,
        "logit_mass": logit_mass,
        "coverage": coverage,
        "max_features": max_features,
        "engine": engine,
    }
    options = AnswerOptions(answer, answer_token, generate)
    check_answer_options(options, targets)
    run = prepare(model, prompt, dictionary, prefix)
    with torch.no_grad():
        run, explained = run_answer(run, options) if options.explains_answer else (run, None)
        problem = pose_problem(run, targets, max_logits, logit_mass, explained)
        edges = _trace(problem, _engine(engine, problem), coverage, max_features, progress)
        return assemble(problem, edges, {**settings, **options.settings()})


def _engine(name: EngineName, problem: AttributionProblem) -> Engine:
    if name == "autograd":
        return AutogradEngine(problem.local)
    return ClosedFormEngine(problem.local)


def _trace(
    problem: AttributionProblem,
    engine: Engine,
    coverage: float | None,
    max_features: int | None,
    progress: Progress | None,
) -> GraphTensors:
    """Rows of all features, or of the selected ones."""
    report = None if progress is None else lambda done, total: progress(done, total, "features")
    if coverage is None and max_features is None:
        return trace_all(problem, engine, report)
    return trace_selected(problem, engine, coverage, max_features, report)
