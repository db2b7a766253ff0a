"""Results of the public functions on small random models and on Atlas, as named tensors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import random_hosts
import torch
from safetensors.torch import load_file
from torch import Tensor

import tl_attribution as tla

Numbers = dict[str, Tensor]

WORDS = (" w3 w14 w15 w9 w26 w5", " w3 w14 w15 w9 w2 w6 w5")
STATES = (
    "Fact: the capital of the state containing Dallas is",
    "Fact: the capital of the state containing Oakland is",
)
"""Two prompts for the random models, and two for Atlas."""

TEXTS = random_hosts.texts(60, seed=5)
RECIPE = {
    "n_features": 32, "tokens": 640, "batch_size": 64, "buffer_size": 256, "k": 4,
    "context_size": 16, "concat": False, "learning_rate": 3e-3, "log_every": 1, "dead_after": 200,
    "aux_k": 4, "aux_coefficient": 0.05, "preactivation_coefficient": 1e-2,
    "sparsity_coefficient": 1e-2, "initial_threshold": 0.05,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "batchtopk": {},
    "raw-batchtopk": {"normalize": False, "k_per_layer": True, "k_start": 12, "window": 2},
    "topk": {"activation": "topk"},
    "jumprelu": {"activation": "jumprelu"},
    "relu": {"activation": "relu"},
    "transcoders": {"kind": "transcoders", "skip": True, "feature_input_hook": "hook_resid_mid"},
}


def plain(value: Any) -> Iterator[float]:
    """Every number in a result, in order; None is NaN, text is left out."""
    if value is None:
        yield float("nan")
    elif isinstance(value, (bool, int, float)):
        yield float(value)
    elif is_dataclass(value):
        for field in fields(value):
            yield from plain(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from plain(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from plain(one)
    elif not isinstance(value, str):
        raise TypeError(f"no numbers in a {type(value).__name__}")


def numbers_of(value: Any) -> Tensor:
    """The numbers of a result as one tensor."""
    return torch.tensor(list(plain(value)), dtype=torch.float64)


def text(lines: Any) -> Tensor:
    """Lines of text as bytes."""
    return torch.tensor(list("\n".join(lines).encode()), dtype=torch.uint8)


def of_graph(graph: tla.Graph) -> Numbers:
    """Everything that a graph holds."""
    columns = ("kind", "layer", "position", "index", "activation", "influence", "cumulative")
    tensors = ("adjacency", "constant", "preactivation", "target_weights")
    about = graph.metadata
    return {
        **{name: getattr(graph.nodes, name) for name in columns},
        **{name: getattr(graph, name) for name in tensors},
        "names": text(part for node in graph.nodes for part in (node.id, node.label, node.group)),
        "tokens": text(about.tokens),
        "about": numbers_of((about.token_ids, about.prefix, about.n_layers, about.d_vocab)),
        "answers": numbers_of(about.answers),
        "scores": numbers_of(graph.scores()),
        "certificate": numbers_of(graph.certificate),
        "residual": numbers_of(graph.residual()),
    }


def _graphs(model: Any, dictionary: Any, prompt: str, whole: tla.Graph) -> Numbers:
    """Partial graphs, other targets, and the slow engine."""
    last = [node for node in whole.nodes if node.kind == "feature"][-1]
    feature = tla.FeatureTarget(last.layer, last.position, last.index)
    vector = random_hosts.Random(8).normal(dictionary.d_model)
    direction = tla.DirectionTarget(vector, layer=1, position=-2, weight=0.5)
    variants: dict[str, dict[str, Any]] = {
        "coverage": {"coverage": 0.5},
        "max_features": {"max_features": 20},
        "both": {"coverage": 0.6, "max_features": 30},
        "salient": {"max_logits": 3, "logit_mass": 0.5, "prefix": 0},
        "tokens": {"targets": [5, tla.TokenTarget(whole.metadata.answers[0].token, -2, 0.25)]},
        "difference": {"targets": tla.DifferenceTarget(5, 7), "max_features": 20},
        "direction": {"targets": [direction, tla.DirectionTarget(vector)]},
        "feature": {"targets": feature},
        "mixed": {"targets": [feature, direction, tla.TokenTarget(9)], "coverage": 0.8},
        "autograd": {"engine": "autograd"}
        | ({"max_features": 40} if len(whole.nodes) > 400 else {}),
    }
    return nested(
        (name, of_graph(tla.attribute(model, prompt, dictionary, **options)))
        for name, options in variants.items()
    )


def _reading(graph: tla.Graph, other: tla.Graph) -> Numbers:
    """Pruned graphs, parts, supernodes, paths, upstream nodes, and a comparison of two prompts."""
    pruned = graph.prune()
    rows = [row for row, node in enumerate(pruned.nodes) if node.kind == "feature"]
    half = len(rows) // 2
    grouped = pruned.group({"low": rows[:half], "high": rows[half:]})
    groups, target = grouped.supernodes(), len(pruned.nodes) - 1
    comparison = tla.compare(pruned, other.prune())
    paths = [(p.nodes, p.weights, p.strength, p.effect) for p in pruned.paths(n=5)]
    upstream = sorted(
        pruned.upstream(target), key=lambda one: one.node.id
    )  # not in order of influence: ties may swap
    return {
        **nested([
            ("pruned", of_graph(pruned)),
            ("pruned_more", of_graph(graph.prune(0.5, 0.9))),
            ("part", of_graph(pruned.subgraph([*rows[half:], target]))),
        ]),
        "paths": numbers_of(paths),
        "upstream": numbers_of([(u.influence, u.effect) for u in upstream]),
        "groups/weights": groups.weights,
        "groups/flow": groups.flow,
        "groups/influence": groups.influence,
        "compare/nodes": comparison.nodes.both,
        "compare/edges": comparison.edges.both,
        "compare/counts": numbers_of((comparison.count(), comparison.count_edges())),
    }  # fmt: skip


def _interventions(model: Any, dictionary: Any, graph: tla.Graph) -> Numbers:
    """Every way to change features, spread in every way."""
    nodes = [node for node in graph.nodes if node.kind == "feature"]
    a, b, c = (nodes[len(nodes) * share // 4] for share in (1, 2, 3))
    change = tla.Intervention
    some = [
        change(a.layer, a.position, a.index, 1.5),
        change.scale(b.layer, b.position, b.index, -2.0),
        change.add(c.layer, slice(1, None), c.index, 0.7),
    ]
    later, layers = tla.supernode([b], 0.0), range(b.layer, graph.metadata.n_layers)
    modes: dict[str, tuple[Any, dict[str, Any]]] = {
        "direct": (some, {"propagation": "direct"}),
        "constrained": (later, {"propagation": "constrained", "layers": layers}),
        "iterative": (some, {}),
        "free": (some, {"freeze_attention": False}),
        "replacement": (some, {"mlps": "replacement"}),
    }
    results = {
        name: tla.intervene(model, graph, dictionary, what, **options)
        for name, (what, options) in modes.items()
    }
    each = [tla.supernode([node], 0.0) for node in (a, b, c)]
    for i, run in enumerate(tla.intervene_each(model, graph, dictionary, each, rows=2)):
        results[f"each_{i}"] = run
    columns = [torch.tensor(column) for column in zip(*(n[1:4] for n in (a, b, c)), strict=True)]
    return nested((name, _of_run(run, columns)) for name, run in results.items())


def _of_run(run: tla.Intervened, columns: list[Tensor]) -> Numbers:
    return {
        "logits": run.logits,
        "reads": run.reads,
        "original_logits": run.original_logits,
        "original_reads": run.original_reads,
        "activations": run.activations,
        "preactivations": run.preactivations(*columns),
    }


def _generation(model: Any, dictionary: Any, graph: tla.Graph) -> Numbers:
    """Text with and without a change, the most likely and drawn."""
    node = next(node for node in graph.nodes if node.kind == "feature")
    held = tla.Intervention.add(node.layer, slice(1, None), node.index, 2.0)
    prompt, numbers = list(graph.metadata.token_ids), {}
    for name, changes, temperature in (
        ("free", (), 0.0),
        ("held", held, 0.0),
        ("drawn", held, 1.0),
    ):
        new = tla.generate(
            model, prompt, dictionary, changes, max_new_tokens=4, temperature=temperature, seed=3
        )
        numbers[f"{name}/ids"] = torch.tensor(new.token_ids)
        numbers[f"{name}/logits"] = new.logits
    return numbers


def _tests(model: Any, dictionary: Any, graph: tla.Graph, prompts: tuple[str, str]) -> Numbers:
    """Evaluation, validation, the replacement model's logits, active features."""
    evaluation = tla.evaluate(
        model, dictionary, [*prompts, *TEXTS[:3]], prompts=list(prompts),
        contexts=4, context=16, concat=False, graphs=1,
    )  # fmt: skip
    rows = [node for node in graph.nodes if node.kind == "feature"][::20]
    validation = tla.validate(
        graph=graph, model=model, dictionary=dictionary, max_features=8, supernodes=[rows]
    )
    numbers = {"evaluate": numbers_of(evaluation), "validate": numbers_of(validation)}
    for errors in (False, True):
        numbers[f"replacement_logits/errors={errors}"] = tla.replacement_logits(
            model, prompts[0], dictionary, errors=errors
        )
    for i, active in enumerate(tla.features(model, list(prompts), dictionary)):
        for name in ("layer", "position", "index", "activation", "preactivation"):
            numbers[f"features/{i}/{name}"] = getattr(active, name)
    return numbers


def traced(model: Any, dictionary: Any, prompts: tuple[str, str]) -> Numbers:
    """Everything about one prompt, and what compares it to another."""
    graph, other = (tla.attribute(model, prompt, dictionary) for prompt in prompts)
    return nested([
        ("graph", of_graph(graph)),
        ("graphs", _graphs(model, dictionary, prompts[0], graph)),
        ("reading", _reading(graph, other)),
        ("intervene", _interventions(model, dictionary, graph)),
        ("generate", _generation(model, dictionary, graph)),
        ("tests", _tests(model, dictionary, graph, prompts)),
    ])  # fmt: skip


def trained(recipe: Mapping[str, Any]) -> Numbers:
    """The weights that a short training run writes, and what it logs."""
    config = tla.TrainingConfig(**{**RECIPE, **recipe})
    with tempfile.TemporaryDirectory() as folder:
        tla.train(random_hosts.gpt2(), TEXTS, config, out=Path(folder) / "run")
        files = sorted(Path(folder, "run", "dictionary").glob("layer_*.safetensors"))
        weights = nested((file.stem, load_file(file)) for file in files)
        lines = Path(folder, "run", "log.jsonl").read_text().splitlines()
    steps = [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]
    return {**weights, "log": numbers_of(steps)}


def _case(host: Callable[[], Any], dictionary: Callable[[], Any] | None) -> Numbers:
    model = host()
    return traced(model, tla.neurons(model) if dictionary is None else dictionary(), WORDS)


def _wide() -> Numbers:
    """More features than one block of rows: what a partial graph computes in several rounds."""
    dictionary = random_hosts.dictionary({"name": "relu"}, 15, features=400)
    options = ({"max_features": 300}, {"coverage": 0.4})
    graphs = (tla.attribute(random_hosts.gpt2(), WORDS[0], dictionary, **one) for one in options)
    return nested((str(i), of_graph(graph)) for i, graph in enumerate(graphs))


def _atlas() -> Numbers:
    return traced(tla.load_model("atlas"), tla.load_dictionary("atlas"), STATES)


def nested(parts: Any) -> Numbers:
    """Parts under their names."""
    return {f"{name}/{key}": value for name, part in parts for key, value in part.items()}


_dictionary = random_hosts.dictionary
_raw = {"read": "ln2.hook_normalized", "write": "mlp.hook_out"}
CASES: dict[str, Callable[[], Numbers]] = {
    "gpt2-clt": partial(
        _case,
        random_hosts.gpt2,
        partial(_dictionary, {"name": "jumprelu"}, 11, window=2, offset=True),
    ),
    "gpt2-neurons": partial(_case, random_hosts.gpt2, None),
    "gpt2-wide": _wide,
    "neox-clt": partial(
        _case, random_hosts.neox, partial(_dictionary, {"name": "relu"}, 12, skip=True)
    ),
    "llama-transcoders": partial(
        _case,
        random_hosts.llama,
        partial(_dictionary, {"name": "topk", "k": 5}, 13, kind="transcoders", skip=True),
    ),
    "llama-neurons": partial(_case, random_hosts.llama, None),
    "gemma2-clt": partial(
        _case,
        random_hosts.gemma2,
        partial(
            _dictionary,
            {"name": "batchtopk", "k": 4, "threshold": 0.3},
            14,
            decoder_scale=1.0,
            **_raw,
        ),
    ),
    "atlas": _atlas,
    **{f"train-{name}": partial(trained, recipe) for name, recipe in RECIPES.items()},
}
"""What is computed, by name."""
