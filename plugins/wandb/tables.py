"""Rows of wandb histograms and tables, from feature densities and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
import wandb

from tl_attribution.evaluation.results import DENSITY_EDGES, Evaluation


def density_row(density: torch.Tensor) -> dict[str, object]:
    """Histograms of log10 of the density [layer, feature], each feature's share of tokens, with the
    bins of an evaluation, and the share of features that were never active."""
    density = density.detach().cpu().float()
    never = (density == 0).float()
    row: dict[str, object] = {"silent": float(never.mean())}
    edges = torch.tensor(DENSITY_EDGES)
    for layer, shares in enumerate(density):
        logs = shares[shares > 0].log10().clamp(DENSITY_EDGES[0], DENSITY_EDGES[-1])
        counts = torch.histogram(logs, edges).hist.int().tolist()
        row[f"silent/layer_{layer}"] = float(never[layer].mean())
        row[f"log10_density/layer_{layer}"] = _histogram(counts)
    return row


def evaluation_row(evaluation: Evaluation) -> dict[str, object]:
    """The known numbers of the summary, and tables of layers, answers and graphs."""
    row: dict[str, object] = {k: v for k, v in evaluation.summary.items() if v is not None}
    row["layers"] = _layers(evaluation)
    for layer, metrics in enumerate(evaluation.layers):
        row[f"log10_density/layer_{layer}"] = _histogram(metrics.density)
    if evaluation.answers:
        answers = evaluation.answers.items()
        row["answers"] = _table([{"group": name} | asdict(metrics) for name, metrics in answers])
    if evaluation.graphs is not None:
        scores = {k: v for k, v in asdict(evaluation.graphs).items() if k != "graphs"}
        row["graphs"] = _table([{"score": name} | values for name, values in scores.items()])
    return {f"evaluation/{name}": value for name, value in row.items()}


def _layers(evaluation: Evaluation) -> wandb.Table:
    rows = []
    for layer, metrics in enumerate(evaluation.layers):
        numbers = asdict(metrics)
        replaced = {f"replaced_{name}": v for name, v in numbers.pop("replaced").items()}
        del numbers["density"]
        rows.append({"layer": layer} | numbers | replaced)
    return _table(rows)


def _table(rows: Sequence[Mapping[str, object]]) -> wandb.Table:
    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def _histogram(counts: Sequence[int]) -> wandb.Histogram:
    return wandb.Histogram(np_histogram=(list(counts), list(DENSITY_EDGES)))  # pyright: ignore[reportArgumentType]  # lists serve as well as arrays
