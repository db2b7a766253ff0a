"""``tl-attribution train``: from a model and text to a dictionary that traces at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError

ATLAS = {
    "n_features": 512,
    "tokens": 10_000_000,
    "k": 12,
    "k_start": 30,
    "k_anneal": 0.03,
    "batch": 1024,
    "buffer": 131_072,
    "concat": False,
    "learning_rate": 1.2e-3,
    "aux_k": 0,
    "preactivation": 1e-3,
    "dead_after": 250_000,
}
"""How the dictionary that ships with Atlas was trained on Atlas's own text."""

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder, a .txt or .jsonl file, or a dataset of the Hub; none: Atlas's own text.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The run's folder.", show_default=False)]
ModelName = Annotated[str, typer.Option("--model", help="'atlas', which ships, or a name.")]
Kind = Annotated[str, typer.Option(help="clt, or transcoders (one a layer).")]
Features = Annotated[int | None, typer.Option("--features", help="Features a layer.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Tokens to train on.")]
ActivationName = Annotated[
    str | None, typer.Option("--activation", help="batchtopk, topk, jumprelu or relu.")
]
K = Annotated[int | None, typer.Option("--k", help="Active features a token and layer.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other field of TrainingConfig: NAME=VALUE; repeat for more."),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option("--callback", help="Who watches: NAME or NAME:ARGUMENT, as in wandb:my-project."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew where a run is.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="Else a GPU if there is one.")]


def train(
    data: Data = None,
    *,
    out: Out,
    model: ModelName = "atlas",
    kind: Kind = "clt",
    features: Features = None,
    tokens: Tokens = None,
    activation: ActivationName = None,
    k: K = None,
    set_: Set = None,
    callback: Callbacks = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: DeviceName = None,
) -> None:
    """Train a dictionary on DATA and save it, with its log and checkpoints, under --out."""
    from tl_attribution.cli import terminal
    from tl_attribution.training import callbacks as watching

    given = {"n_features": features, "tokens": tokens, "activation": activation, "k": k}
    wanted = {name: value for name, value in given.items() if value is not None}
    usual: dict[str, Any] = ATLAS if data is None else {}
    config = tla.TrainingConfig(**{**usual, "kind": kind, **wanted, **_fields(set_ or [])})
    watchers = [watching.callback(spec) for spec in callback or []]
    with terminal.progress() as progress:
        progress(0, 0, f"loading {model}")
        loaded = tla.load_model(model)
        dataset, name = _data(data, model)
        progress(0, 0, "reading the first activations")
        try:
            made = tla.train(
                loaded,
                dataset,
                config,
                out=out,
                resume=resume,
                overwrite=overwrite,
                callbacks=watchers,
                device=device,
                data_name=name,
                on_progress=progress,
            )
        except KeyboardInterrupt as stop:
            raise InputError(f"{stop or 'interrupted'}; go on with --resume") from stop
    _tell(made, out, model)


def _data(data: str | None, model: str) -> tuple[Any, str]:
    """The dataset and the name it goes by in the run's files."""
    if data is not None:
        return data, data
    if model != "atlas":
        raise InputError("give DATA, the text to train on; only Atlas comes with its own")
    from tl_attribution.atlas.corpus import sentences

    return sentences(), "atlas"


def _fields(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` options as the types their fields have."""
    import dataclasses
    import json

    known = {f.name for f in dataclasses.fields(tla.TrainingConfig)}
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in known:
            from tl_attribution.errors import nearest

            raise InputError(f"--set {pair!r} is not NAME=VALUE: {nearest(name, known)}")
        try:
            out[name] = json.loads(
                {"True": "true", "False": "false", "None": "null"}.get(text, text)
            )
        except ValueError:
            out[name] = text
    return out


def _tell(made: Any, out: Path, model: str) -> None:
    import os

    from tl_attribution.cli import terminal
    from tl_attribution.graph.paths import printable

    if os.environ.get("RANK", "0") != "0":
        return
    console = terminal.console()
    where = printable(str(out / "dictionary"))
    console.print(f"\n{made}\nsaved to {where}\n", soft_wrap=True)
    console.print("How good it is, and what it shows:", style="bold")
    console.print(f"  tl-attribution evaluate {where} --model {model}", soft_wrap=True)
    console.print(
        f"  tl-attribution trace PROMPT --model {model} --dictionary {where}", soft_wrap=True
    )
