"""A model, a dictionary and a prompt, made ready: what every verb starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

import torch
from torch import Tensor

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.graph.graph import Graph
from tl_attribution.hosts.opening import ModelSites, find_sites, open_host
from tl_attribution.hosts.prompt import Prompt, resolve_prompt
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.hosts.snapshot import Snapshot
from tl_attribution.replacement.active_features import activations_at
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.shapes import Stream

PromptOrGraph = Union[Prompt, Graph]  # noqa: UP007  # evaluated on 3.10
"""A prompt, or a graph of it: then the prefix is the graph's."""

ACTIVATION_TOLERANCE = 1e-2
"""How far a graph's activations may be from those of this run, relative to the largest."""


@dataclass(frozen=True, eq=False)
class AttachedDictionary:
    """A dictionary on the model that it stands in for: what evaluation starts from."""

    sites: ModelSites
    dictionary: Dictionary

    @property
    def host(self) -> Traceable:
        """The model."""
        return self.sites.host


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One prompt's forward pass through a model, and the dictionary that explains it. Made by
    :func:`prepare`; every verb takes one in place of model, prompt and dictionary.

    ``prefix`` leading positions keep their MLP outputs: features there are not nodes.
    """

    sites: ModelSites
    dictionary: Dictionary
    snapshot: Snapshot
    prefix: int

    @property
    def host(self) -> Traceable:
        """The model."""
        return self.sites.host

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.sites.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that activations are computed in."""
        return self.sites.dtype

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.snapshot.blocks)

    @property
    def n_positions(self) -> int:
        """Length of the prompt in tokens, prefix included."""
        return len(self.snapshot.token_ids)

    @cached_property
    def reads(self) -> list[Stream]:
        """What features read at every layer."""
        return [self.snapshot.read(layer, self.sites.read_site) for layer in range(self.n_layers)]

    @cached_property
    def written(self) -> list[Stream]:
        """What every MLP writes."""
        return [block.written(self.sites.write_site) for block in self.snapshot.blocks]

    @cached_property
    def errors(self) -> list[Stream]:
        """MLP output minus the dictionary's reconstruction at every layer; zero at the prefix."""
        start, errors = self.prefix, list[Stream]()
        active: list[ActiveColumns] = []
        for layer, (x, out) in enumerate(zip(self.reads, self.written, strict=True)):
            active.append(encode_columns(self.dictionary, layer, x[start:]))
            reconstruction = reconstruct(self.dictionary, active, layer, x[start:], out[start:])
            errors.append(torch.cat([torch.zeros_like(out[:start]), out[start:] - reconstruction]))
        return errors


def attach(model: Any, dictionary: Dictionary) -> AttachedDictionary:
    """A dictionary on a model. Raises MismatchError if it belongs to another model, NotFoundError
    for hooks that the model does not have, UnsupportedModelError for a model of unknown type, and
    InputError for a prompt in place of the model."""
    if isinstance(model, (str, Sequence, Mapping, Tensor)):
        raise InputError(
            f"expected the model first, then the prompt and the dictionary; got a "
            f"{type(model).__name__} in place of the model"
        )
    host = open_host(model)
    _check_fits(host, dictionary)
    sites = find_sites(host, dictionary.feature_input_hook, dictionary.feature_output_hook)
    return AttachedDictionary(sites, dictionary)


def prepare(
    model: Any,
    prompt: PromptOrGraph | None = None,
    dictionary: Dictionary | None = None,
    prefix: int | None = None,
) -> PromptRun:
    """Run a prompt once and keep all that attribution, interventions and validation start from.

    ``prompt``: text, chat messages, token ids, what a tokenizer returns, or a graph of the prompt,
    which is then checked to be of this model and dictionary. ``prefix``: number of leading
    positions that every prompt shares; None asks the tokenizer (the BOS token, and the opening of
    its chat template where the prompt begins with it), or the graph. A ``PromptRun`` in place of
    ``model``, alone, is returned as it is.

    Raises InputError for a prompt that cannot be run, MismatchError for a dictionary or a graph of
    another model, UnsupportedModelError, and ProofError if the frozen model does not give back the
    host's activations.
    """
    if isinstance(model, PromptRun):
        if prompt is not None or dictionary is not None or prefix is not None:
            raise InputError(
                "a prepared run has its prompt, dictionary and prefix; leave them out, or give the "
                "model in place of the run"
            )
        return model
    if prompt is None or dictionary is None:
        raise InputError(
            "expected a model, a prompt and a dictionary, or what tla.prepare returned"
        )
    attached = attach(model, dictionary)
    with torch.no_grad():
        if isinstance(prompt, Graph):
            return _graph_run(attached, prompt, prefix)
        return prompt_run(attached, prompt, prefix)


def prompt_run(
    attached: AttachedDictionary, prompt: Prompt, prefix: int | None = None
) -> PromptRun:
    """One prompt's run. Raises as :func:`prepare` does."""
    ids, length = resolve_prompt(attached.host, prompt, prefix)
    snapshot = attached.host.snapshot(ids)
    return PromptRun(attached.sites, attached.dictionary, snapshot, length)


def check_graph(run: PromptRun, graph: Graph) -> None:
    """Raise MismatchError unless the graph is of this run: its model, dictionary and prompt."""
    _check_metadata(run.host, run.dictionary, graph)
    if list(graph.metadata.token_ids) != run.snapshot.token_ids.tolist():
        raise MismatchError(
            "the graph is of another prompt than the run; prepare the graph's own: "
            "tla.prepare(model, graph, dictionary)"
        )
    if graph.metadata.prefix != run.prefix:
        raise MismatchError(
            f"the graph's prefix is {graph.metadata.prefix} and the run's is {run.prefix}; prepare "
            "the graph's own: tla.prepare(model, graph, dictionary)"
        )
    _check_activations(run, graph)


def _graph_run(attached: AttachedDictionary, graph: Graph, prefix: int | None) -> PromptRun:
    metadata = graph.metadata
    if prefix is not None and prefix != metadata.prefix:
        raise InputError(
            f"prefix={prefix}, but the graph's prefix is {metadata.prefix}; leave it out"
        )
    _check_metadata(attached.host, attached.dictionary, graph)
    run = prompt_run(attached, list(metadata.token_ids), metadata.prefix)
    _check_activations(run, graph)
    return run


def _check_fits(host: Traceable, dictionary: Dictionary) -> None:
    for name in ("n_layers", "d_model"):
        in_dictionary, in_model = getattr(dictionary, name), getattr(host, name)
        if in_dictionary != in_model:
            raise MismatchError(
                f"the dictionary has {name}={in_dictionary}, the model {host.name!r} has "
                f"{name}={in_model}; they belong to different models"
            )
    if dictionary.model_name and _base_name(dictionary.model_name) != _base_name(host.name):
        raise MismatchError(
            f"the dictionary was trained on {dictionary.model_name!r}, the model is {host.name!r}; "
            "if they are the same weights under two names, give load_dictionary model_name=, on "
            f"the command line --trained-on {host.name}"
        )


def _base_name(model: str) -> str:
    return model.split("/")[-1].lower()


def _check_metadata(host: Traceable, dictionary: Dictionary, graph: Graph) -> None:
    metadata = graph.metadata
    for name, of_graph, of_run in (
        ("model", metadata.model, host.name),
        ("number of layers", metadata.n_layers, host.n_layers),
        ("vocabulary", metadata.d_vocab, host.d_vocab),
        ("kind of dictionary", metadata.dictionary, dictionary.kind),
    ):
        if of_graph != of_run:
            raise MismatchError(
                f"the graph is of another {name}: {of_graph!r}, not {of_run!r}; give the model and "
                "the dictionary that it was traced with"
            )


def _check_activations(run: PromptRun, graph: Graph) -> None:
    """A graph's features must be as active as it says, or it is of other weights."""
    rows = graph.nodes.is_kind("feature").nonzero().flatten()
    layer, position, index = (getattr(graph.nodes, c)[rows] for c in ("layer", "position", "index"))
    activation, dictionary = graph.nodes.activation[rows], run.dictionary
    exist = not len(rows) or int(index.max()) < dictionary.n_features
    current = torch.zeros_like(activation)
    for i in layer.unique().tolist() if exist else ():
        in_layer = layer == i
        columns = torch.zeros_like(position[in_layer]), position[in_layer], index[in_layer]
        x = run.reads[i][None]
        values = activations_at(dictionary, i, x, *(c.to(x.device) for c in columns))
        current[in_layer] = values.to(current)
    size = activation.abs().max() if len(rows) else torch.ones(())
    if not exist or bool(((current - activation).abs() > ACTIVATION_TOLERANCE * size).any()):
        raise MismatchError(
            "the graph's features are not active on its prompt as it says, so it was traced with "
            "other weights of the model or the dictionary; trace the prompt again"
        )
