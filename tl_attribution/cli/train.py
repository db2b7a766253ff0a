"""``tl-attribution train``: train a dictionary for a model on text."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution.errors import InputError, nearest

ATLAS = {
    "n_features": 384,
    "tokens": 8_000_000,
    "k": 4,
    "k_start": 24,
    "k_anneal": 0.6,
    "batch_size": 1024,
    "buffer_size": 131_072,
    "concat": False,
    "learning_rate": 2.4e-3,
    "aux_k": 0,
    "preactivation_coefficient": 1e-3,
    "dead_after": 250_000,
}
"""The configuration of the dictionary that ships with Atlas."""

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder, or a .txt, .jsonl or .parquet file; default: Atlas's corpus.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The run's folder.", show_default=False)]
ModelName = Annotated[str, typer.Option("--model", help="'atlas' (bundled), or a name.")]
Kind = Annotated[str, typer.Option(help="clt, or transcoders (one per layer).")]
Features = Annotated[int | None, typer.Option("--features", help="Features per layer.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Tokens to train on.")]
ActivationName = Annotated[
    str | None, typer.Option("--activation", help="batchtopk, topk, jumprelu or relu.")
]
K = Annotated[int | None, typer.Option("--k", help="Active features per token and layer.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of TrainingConfig as NAME=VALUE; repeatable."),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback", help="A callback: NAME or NAME:ARGUMENT, as in wandb:my-project; repeatable."
    ),
]
EvaluationContexts = Annotated[
    int, typer.Option("--evaluate", min=0, help="Number of contexts to evaluate on at the end.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in this folder.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="Default: the model's, or a GPU.")]


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
    evaluate: EvaluationContexts = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: DeviceName = None,
) -> None:
    """Train a dictionary on DATA and save it, with its log and checkpoints, under --out."""
    from tl_attribution.cli import terminal
    from tl_attribution.training.callbacks import callback as callback_for
    from tl_attribution.training.config import check_choices

    options = {"n_features": features, "tokens": tokens, "activation": activation, "k": k}
    defaults: dict[str, Any] = ATLAS if data is None else {}
    changes = {name: value for name, value in options.items() if value is not None}
    fields = {**defaults, "kind": kind, **changes, **_fields(set_ or [])}
    check_choices(fields)
    config = tla.TrainingConfig(**fields)
    dataset, name = _data(data, model)
    callbacks = [callback_for(spec) for spec in callback or []]
    with terminal.progress() as progress:
        progress(0, 0, f"loading {model}")
        loaded = tla.load_model(model)
        progress(0, 0, "reading the first activations")
        try:
            dictionary = tla.train(
                loaded,
                dataset,
                config,
                out=out,
                resume=resume,
                overwrite=overwrite,
                callbacks=callbacks,
                device=device,
                data_name=name,
                on_progress=progress,
                evaluate=_evaluation(loaded, data, config, evaluate, out, progress),
            )
        except KeyboardInterrupt as stop:
            raise InputError(f"{stop or 'interrupted'}; resume with --resume") from stop
    _print_result(dictionary, out, model, data)


def _data(data: str | None, model: str) -> tuple[Any, str]:
    """The dataset and its name in the run's files."""
    if data is not None:
        return data, data
    if model != "atlas":
        raise InputError(
            f"give DATA, the text to train on: {model!r} has no bundled text, only Atlas has"
        )
    from tl_attribution.atlas.corpus import sentences

    return sentences(), "atlas"


def _evaluation(
    model: Any, data: str | None, config: Any, contexts: int, out: Path, progress: Any
) -> Callable[[Any], Any] | None:
    """The evaluation of the dictionary at the end, which also writes ``evaluation.json``."""
    if not contexts:
        return None

    def run(dictionary: Any) -> Any:
        from tl_attribution.cli.evaluate import atlas

        texts, prompts = (data, None) if data is not None else atlas(contexts, 0)
        evaluation = tla.evaluate(
            model,
            dictionary,
            texts,
            prompts=prompts,
            contexts=contexts,
            context=config.context_size,
            concat=config.concat,
            column=config.column,
            progress=progress,
        )
        evaluation.to_json(out / "evaluation.json")
        return evaluation

    return run


PARSERS: dict[type, Callable[[str], Any]] = {
    type(None): {"none": None, "null": None}.__getitem__,
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    float: float,
    str: str,
}
"""How the text of an option becomes a field's value, in the order in which types are tried."""


def _fields(pairs: list[str]) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` options by the types of their fields."""
    hints = get_type_hints(tla.TrainingConfig)
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in hints:
            raise InputError(
                f"expected --set NAME=VALUE with a field of TrainingConfig, got {pair!r}: "
                f"{nearest(name, hints)}"
            )
        fields[name] = _parse(name, text, _types(hints[name]))
    return fields


def _types(hint: Any) -> tuple[type, ...]:
    """The types of a field: those of a union, and ``str`` for a Literal."""
    if get_origin(hint) is Literal:
        return (str,)
    return get_args(hint) or (hint,)


def _parse(name: str, text: str, types: tuple[type, ...]) -> Any:
    for type_, parse in PARSERS.items():
        if type_ in types:
            try:
                return parse(text.lower() if type_ in (type(None), bool) else text)
            except (KeyError, ValueError):
                continue
    names = ["None" if type_ is type(None) else type_.__name__ for type_ in types]
    raise InputError(f"--set {name} must be of type {' or '.join(names)}, got {text!r}")


def _print_result(dictionary: Any, out: Path, model: str, data: str | None) -> None:
    from tl_attribution.cli import terminal
    from tl_attribution.text import printable

    if os.environ.get("RANK", "0") != "0":
        return
    console = terminal.console()
    folder = printable(str(out / "dictionary"))
    console.print(f"\n{dictionary}\nsaved to {folder}\n", soft_wrap=True)
    console.print("Next: evaluate it, and trace a prompt with it.", style="bold")
    text = "" if data is None else f" {printable(data)}"
    console.print(f"  tl-attribution evaluate {folder}{text} --model {model}", soft_wrap=True)
    console.print(
        f"  tl-attribution trace PROMPT --model {model} --dictionary {folder}", soft_wrap=True
    )
