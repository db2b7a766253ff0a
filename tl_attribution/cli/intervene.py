"""``tl-attribution intervene``: change features on a prompt and compare the answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

import tl_attribution as tla  # lazy: nothing heavy is imported before it is used
from tl_attribution import choices
from tl_attribution.cli import common
from tl_attribution.errors import InputError

ANSWERS = 5
"""Number of the likeliest tokens of each run that are shown."""

FORM = "LAYER:POSITION:FEATURE"
POSITIONS = "POSITION: a number (-1: the last), A..B (B excluded), or A.. (and generated tokens)."

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar=f"{FORM}=VALUE", help=f"Set a feature to a value; repeatable. {POSITIONS}"
    ),
]
Scale = Annotated[
    list[str] | None,
    typer.Option("--scale", metavar=f"{FORM}=FACTOR", help="Multiply its activation by a factor."),
]
Add = Annotated[
    list[str] | None,
    typer.Option("--add", metavar=f"{FORM}=AMOUNT", help="Add an amount to its activation."),
]
Ablate = Annotated[
    list[str] | None, typer.Option("--ablate", metavar=FORM, help="Set its activation to zero.")
]
PropagationMode = Annotated[
    choices.Propagation,
    common.choice_option(
        choices.Propagation, "--propagation", help="How the changes spread through the model."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers", metavar="A..B", help="With constrained: the layers to write into (B excluded)."
    ),
]
FreeAttention = Annotated[
    bool, typer.Option("--free-attention", help="Recompute attention patterns too.")
]
Generate = Annotated[
    int, typer.Option("--generate", min=0, help="Number of tokens to generate, before and after.")
]


def intervene(
    prompt: common.Prompt,
    model: common.ModelName = None,
    dictionary: common.DictionaryName = None,
    reads: common.Reads = None,
    writes: common.Writes = None,
    k: common.K = None,
    trained_on: common.TrainedOn = None,
    chat: common.Chat = False,
    system: common.System = None,
    set_: Set = None,
    scale: Scale = None,
    add: Add = None,
    ablate: Ablate = None,
    propagation: PropagationMode = "iterative",
    layers: Layers = None,
    free_attention: FreeAttention = False,
    generate: Generate = 0,
    prefix: common.Prefix = None,
) -> None:
    """Run PROMPT with features changed, and show its answers before and after."""
    changes: dict[Change, list[str] | None] = {
        "set": set_,
        "scale": scale,
        "add": add,
        "ablate": ablate,
    }
    interventions = [_parse(text, how) for how, texts in changes.items() for text in texts or []]
    if not interventions:
        raise InputError(f"nothing to change; give --set {FORM}=VALUE, --scale, --add or --ablate")
    settings: dict[str, Any] = {
        "propagation": propagation,
        "layers": None if layers is None else _layers(layers),
        "freeze_attention": not free_attention,
        "prefix": prefix,
    }

    options = common.ModelOptions(model, dictionary, reads, writes, k, trained_on)
    _run(options, common.as_prompt(prompt, chat, system), interventions, settings, generate)


Change = Literal["set", "scale", "add", "ablate"]
_PLACE = re.compile(r"(\d+):(-?\d+|(?:-?\d+)?\.\.(?:-?\d+)?):(\d+)")


def _parse(text: str, how: Change) -> Any:
    """Parse one option as an Intervention. Raises InputError for another form."""
    place, equals, value = text.partition("=")
    match = _PLACE.fullmatch(place.strip())
    number = "0" if how == "ablate" else value
    if match is None or (how == "ablate") == bool(equals):
        form = FORM if how == "ablate" else f"{FORM}=VALUE"
        raise InputError(
            f"--{how} {text!r} is not {form}, as in 2:-1:17{'=3.5' * (how != 'ablate')}"
        )
    try:
        amount = float(number)
    except ValueError:
        raise InputError(f"--{how} {text!r}: {value!r} is not a number") from None
    layer, position, feature = match.groups()
    positions = _span(position) if ".." in position else int(position)
    kind = "set" if how == "ablate" else how
    return tla.Intervention(int(layer), positions, int(feature), amount, kind)


def _span(text: str) -> slice:
    first, _, last = text.partition("..")
    return slice(int(first) if first else None, int(last) if last else None)


def _layers(text: str) -> range:
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if match is None:
        raise InputError(f"--layers {text!r} is not A..B, as in 2..5 for layers 2, 3 and 4")
    return range(int(match[1]), int(match[2]))


def _run(
    options: common.ModelOptions,
    prompt: str | list[dict[str, str]],
    interventions: list[Any],
    settings: dict[str, Any],
    n_new: int,
) -> None:
    from tl_attribution.cli import intervention_report, terminal

    with terminal.progress() as progress:
        progress(0, 0, f"loading {options.model or options.dictionary or common.ATLAS}")
        model, dictionary = common.load(options, progress)
        progress(0, 0, "running")
        result = tla.intervene(model, prompt, dictionary, interventions, **settings)
        texts = [
            tla.generate(model, prompt, dictionary, group, max_new_tokens=n_new, **settings).text
            for group in (([], interventions) if n_new else ())
        ]
    intervention_report.show(terminal.console(), result, texts, ANSWERS)
