"""What is logged besides records: densities and evaluations as wandb's histograms and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
import wandb

from tl_attribution.evaluation.results import DENSITY_EDGES, Evaluation


def density(shares: torch.Tensor) -> dict[str, object]:
    """Histograms of log10 of each feature's share of tokens, [layer, feature], over the same bins
    as an evaluation's, and the share of features that were never active."""
    shares = shares.detach().cpu().float()
    never = (shares == 0).float()
    row: dict[str, object] = {"silent": float(never.mean())}
    edges = torch.tensor(DENSITY_EDGES)
    for layer, found in enumerate(shares):
        logs = found[found > 0].log10().clamp(DENSITY_EDGES[0], DENSITY_EDGES[-1])
        counts = torch.histogram(logs, edges).hist.int().tolist()
        row[f"silent/layer_{layer}"] = float(never[layer].mean())
        row[f"log10_density/layer_{layer}"] = _histogram(counts)
    return row


def evaluation(found: Evaluation) -> dict[str, object]:
    """The summary's numbers that are known; tables of layers, answers and graphs."""
    row: dict[str, object] = {k: v for k, v in found.summary.items() if v is not None}
    row["layers"] = _layers(found)
    for layer, one in enumerate(found.layers):
        row[f"log10_density/layer_{layer}"] = _histogram(one.density)
    if found.answers:
        answers = [{"group": name} | asdict(one) for name, one in found.answers.items()]
        row["answers"] = _table(answers)
    if found.graphs is not None:
        spreads = {k: v for k, v in asdict(found.graphs).items() if k != "graphs"}
        row["graphs"] = _table([{"score": name} | spread for name, spread in spreads.items()])
    return {f"evaluation/{name}": value for name, value in row.items()}


def _layers(found: Evaluation) -> wandb.Table:
    lines = []
    for layer, one in enumerate(found.layers):
        numbers = asdict(one)
        replaced = numbers.pop("replaced")
        del numbers["density"]
        alone = {f"replaced_{name}": value for name, value in replaced.items()}
        lines.append({"layer": layer} | numbers | alone)
    return _table(lines)


def _table(lines: Sequence[Mapping[str, object]]) -> wandb.Table:
    return wandb.Table(columns=list(lines[0]), data=[list(line.values()) for line in lines])


def _histogram(counts: Sequence[int]) -> wandb.Histogram:
    return wandb.Histogram(np_histogram=(list(counts), list(DENSITY_EDGES)))  # pyright: ignore[reportArgumentType]  # lists serve as well as arrays
