"""Modes of intervention: how a change spreads through the model."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from tl_attribution.choices import Propagation
from tl_attribution.errors import InputError
from tl_attribution.hosts.opening import editable
from tl_attribution.interventions.clamps import Clamps
from tl_attribution.interventions.edited_run import (
    EditedRun,
    MlpEdits,
    Mlps,
    run_frozen,
    run_on_host,
)
from tl_attribution.replacement.prompt_run import PromptRun


class InterventionMode(NamedTuple):
    """How a change spreads: see :func:`tl_attribution.intervene`."""

    propagation: Propagation = "iterative"
    layers: range | None = None
    freeze_attention: bool = True
    mlps: Mlps = "model"


def check_mode(run: PromptRun, mode: InterventionMode, clamps: Clamps) -> None:
    """Raise InputError for modes that do not exist or exclude each other, and for a range outside
    the model or that a changed feature does not write to; UnsupportedModelError for a host that
    cannot be edited, unless nothing is recomputed."""
    for name, value, choices in (
        ("propagation", mode.propagation, get_args(Propagation)),
        ("mlps", mode.mlps, get_args(Mlps)),
    ):
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if mode.propagation == "direct" and not mode.freeze_attention:
        raise InputError("direct effects are those with attention frozen; use 'iterative'")
    if mode.propagation == "direct" and mode.mlps != "model":
        raise InputError("direct effects recompute no MLP; leave mlps out, or use 'iterative'")
    if (mode.propagation == "constrained") != (mode.layers is not None):
        raise InputError("propagation='constrained' and layers=range(a, b) go together")
    if mode.propagation != "direct":
        editable(run.host)
    if mode.layers is not None:
        _check_layers(run, mode.layers, clamps)


def _check_layers(run: PromptRun, layers: range, clamps: Clamps) -> None:
    n = run.n_layers
    is_range = isinstance(layers, range) and layers.step == 1
    if not is_range or not 0 <= layers.start < layers.stop <= n:
        raise InputError(f"layers must be range(a, b) with 0 <= a < b <= {n}, got {layers!r}")
    for layer in clamps.layer.unique().tolist():
        if not set(run.dictionary.written_layers(layer)) & set(layers):
            raise InputError(f"features of layer {layer} write to no layer of {layers}")


def run_rows(
    run: PromptRun, clamps: Clamps, rows: int, mode: InterventionMode, cache: Any = None
) -> EditedRun:
    """Run the prompt with these clamps, ``rows`` rows in one forward pass."""
    if mode.propagation == "direct":
        return run_frozen(run, clamps, rows)
    token_ids = run.snapshot.token_ids.expand(rows, -1)
    edits = MlpEdits(run, clamps, mode.layers, mode.mlps)
    return run_on_host(edits, token_ids, freeze_attention=mode.freeze_attention, cache=cache)
