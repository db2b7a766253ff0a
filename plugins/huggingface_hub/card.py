"""The model card of a dictionary: usage, facts, training and evaluation. Names and numbers come
from files and are escaped, never markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from tl_attribution.dictionaries.hub import Publication
from tl_attribution.errors import FormatError

TAGS = ("tl-attribution", "circuit-tracing", "attribution-graphs", "mechanistic-interpretability")
METRICS = {
    "tokens": "tokens evaluated",
    "nmse": "squared error over variance (NMSE)",
    "explained_variance": "explained variance",
    "l0": "active features per token and layer (L0)",
    "dead_share": "share of features that were never active",
    "one_layer_agreement": "same top token with one layer replaced",
    "replacement_agreement": "same top token with all layers replaced",
    "replacement_kl": "KL divergence with all layers replaced, in nats",
    "replacement_loss_recovered": "loss recovered with all layers replaced",
    "graph_replacement": "graphs: replacement score",
    "graph_completeness": "graphs: completeness score",
}
"""The numbers of ``Evaluation.summary`` in the table."""
TRAINING_FIELDS = {
    "tokens": "tokens",
    "activation": "activation",
    "k": "target number of active features per token and layer",
    "batch_size": "batch size, in tokens",
    "context_size": "context size, in tokens",
    "learning_rate": "learning rate",
    "seed": "seed",
}
"""The fields of ``TrainingConfig`` in the table."""

PAPER = "https://transformer-circuits.pub/2025/attribution-graphs/methods.html"
BODY = """\
# {title}

A {kind} of {model}: {features:,} features at each of {layers} layers. It replaces the model's
MLPs in attribution graphs ([Circuit Tracing]({paper}), Ameisen et al. 2025).

## Use

```python
import tl_attribution as tla

dictionary = tla.load_dictionary({address})
graph = tla.attribute(tla.load_model({name}), {prompt}, dictionary)
```

## Facts

{facts}

## Training

{training}

## Evaluation

{evaluation}
"""


def card(publication: Publication, repo: str) -> str:
    """The card in Markdown, after the Hub's metadata: the folder's README.md, or generated. Raises
    FormatError if the README.md is not UTF-8 text."""
    if publication.card is not None:
        try:
            return publication.card.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{publication.card} is not UTF-8 text: {error}") from error
    return f"---\n{_metadata(publication)}\n---\n\n{_body(publication, repo)}"


def _metadata(publication: Publication) -> str:
    config = publication.config
    model = str(config["model_name"] or "")
    data = ModelCardData(
        library_name="tl-attribution",
        license=publication.license,
        base_model=model if "/" in model else None,
        tags=[*TAGS, config["kind"].replace(" ", "-"), *([model] if model else [])],
    )
    return data.to_yaml()


def _body(publication: Publication, repo: str) -> str:
    config = publication.config
    model = str(config["model_name"] or "MODEL")
    return BODY.format(
        title=_text(repo.partition("/")[2]),
        kind=_text(config["kind"]),
        model=_text(model),
        features=config["n_features"],
        layers=config["n_layers"],
        paper=PAPER,
        address=json.dumps(repo),
        name=json.dumps(model),
        prompt=json.dumps("The capital of France is"),
        facts=_table(_facts(publication)),
        training=_training(publication.run),
        evaluation=_evaluation(publication.evaluation),
    )


def _facts(publication: Publication) -> Iterable[tuple[str, object]]:
    config = publication.config
    yield "kind", config["kind"]
    yield "model", config["model_name"]
    yield "layers", config["n_layers"]
    yield "features per layer", config["n_features"]
    yield "activation", config["activation"].get("name")
    yield "reads at", config["feature_input_hook"]
    yield "reconstructs", config["feature_output_hook"]
    yield "size", f"{publication.size / 1e6:,.1f} MB of safetensors and JSON"
    yield "license", publication.license or "not stated"


def _training(run: Mapping[str, Any]) -> str:
    config = run.get("config")
    if not isinstance(config, dict):
        return "Not recorded."
    rows = [(label, config[name]) for name, label in TRAINING_FIELDS.items() if config.get(name)]
    return _table([("text", run.get("data")), *rows])


def _evaluation(summary: Mapping[str, Any]) -> str:
    rows = [(label, summary[n]) for n, label in METRICS.items() if summary.get(n) is not None]
    if not rows:
        return "Not recorded; see `tl-attribution evaluate`."
    return _table(rows) + "\n\nAll numbers are in `evaluation.json`."


def _table(rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"| {_text(name)} | {_text(value)} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _text(value: object) -> str:
    """A name or number, escaped for a cell of a Markdown table."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#~" else c for c in escaped)
