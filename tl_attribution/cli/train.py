"""``tl-attribution train``: from a model and text to a dictionary that traces at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError, nearest

ATLAS = {
    "n_features": 384,
    "tokens": 8_000_000,
    "k": 4,
    "k_start": 24,
    "k_anneal": 0.6,
    "batch": 1024,
    "buffer": 131_072,
    "concat": False,
    "learning_rate": 2.4e-3,
    "aux_k": 0,
    "preactivation": 1e-3,
    "dead_after": 250_000,
}
"""How the dictionary that ships with Atlas was trained on Atlas's own text."""

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder, or a .txt, .jsonl or .parquet file; none: Atlas's own text.",
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
Evaluated = Annotated[
    int, typer.Option("--evaluate", min=0, help="At the end, evaluate on so many contexts.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew where a run is.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="Else the model's, or a GPU.")]


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
    evaluate: Evaluated = 0,
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
    dataset, name = _data(data, model)
    watchers = [watching.callback(spec) for spec in callback or []]
    with terminal.progress() as progress:
        progress(0, 0, f"loading {model}")
        loaded = tla.load_model(model)
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
                evaluate=_evaluation(loaded, data, config, evaluate, out, progress),
            )
        except KeyboardInterrupt as stop:
            raise InputError(f"{stop or 'interrupted'}; go on with --resume") from stop
    _tell(made, out, model, data)


def _data(data: str | None, model: str) -> tuple[Any, str]:
    """The dataset and the name it goes by in the run's files."""
    if data is not None:
        return data, data
    if model != "atlas":
        raise InputError("give DATA, the text to train on; only Atlas comes with its own")
    from tl_attribution.atlas.corpus import sentences

    return sentences(), "atlas"


def _evaluation(
    model: Any, data: str | None, config: Any, contexts: int, out: Path, progress: Any
) -> Callable[[Any], Any] | None:
    """What evaluates the dictionary at the end, if that was asked for, and keeps what it found."""
    if not contexts:
        return None

    def run(made: Any) -> Any:
        from tl_attribution.cli.evaluate import atlas

        texts, prompts = (data, None) if data is not None else atlas(contexts, 0)
        found = tla.evaluate(
            model,
            made,
            texts,
            prompts=prompts,
            contexts=contexts,
            context=config.context,
            concat=config.concat,
            column=config.column,
            progress=progress,
        )
        found.to_json(out / "evaluation.json")
        return found

    return run


READ: dict[str, Callable[[str], Any]] = {
    "None": {"none": None, "null": None}.__getitem__,
    "bool": {"true": True, "false": False}.__getitem__,
    "int": int,
    "float": float,
    "str": str,
}
"""How the text of an option becomes a field's value, in the order in which types are tried."""


def _fields(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` options as the types their fields have."""
    import dataclasses

    types = {f.name: str(f.type).split(" | ") for f in dataclasses.fields(tla.TrainingConfig)}
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in types:
            raise InputError(f"--set {pair!r} is not NAME=VALUE: {nearest(name, types)}")
        out[name] = _value(name, text, types[name])
    return out


def _value(name: str, text: str, types: list[str]) -> Any:
    for kind, read in READ.items():
        if kind in types:
            try:
                return read(text.lower() if kind in ("None", "bool") else text)
            except (KeyError, ValueError):
                continue
    raise InputError(f"--set {name}={text}: {name} is of type {' or '.join(types)}")


def _tell(made: Any, out: Path, model: str, data: str | None) -> None:
    from tl_attribution.cli import terminal
    from tl_attribution.graph.paths import printable

    if os.environ.get("RANK", "0") != "0":
        return
    console = terminal.console()
    where = printable(str(out / "dictionary"))
    console.print(f"\n{made}\nsaved to {where}\n", soft_wrap=True)
    console.print("How good it is, and what it shows:", style="bold")
    text = "" if data is None else f" {printable(data)}"
    console.print(f"  tl-attribution evaluate {where}{text} --model {model}", soft_wrap=True)
    console.print(
        f"  tl-attribution trace PROMPT --model {model} --dictionary {where}", soft_wrap=True
    )
