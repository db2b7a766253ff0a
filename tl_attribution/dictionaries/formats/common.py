"""What readers share: what they give, configs, layers by number, and saying what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_attribution.dictionaries.activations import Activation, JumpReLU, ReLU
from tl_attribution.dictionaries.layers import StoredLayer
from tl_attribution.dictionaries.tensor_files import TensorFile, listed
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import FormatError, InputError, MismatchError

DEPTH = 4
"""How many folders deep a dictionary's files may lie."""


class Found(NamedTuple):
    """A dictionary as its files say. Hooks are None where they don't, and the activation is None
    where it is a TopK of unknown k."""

    kind: type[Transcoder]
    layers: Sequence[StoredLayer]
    activation: Activation | None
    feature_input_hook: str | None = None
    feature_output_hook: str | None = None
    model_name: str | None = None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises FormatError for anything else."""
    try:
        said = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise FormatError(f"{file} is missing: the dictionary is not complete") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not JSON: {error}") from error
    return _mapping(said, file)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises FormatError for anything else, and for tags that make
    objects."""
    import yaml

    try:
        said = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not plain YAML: {error}") from error
    return _mapping(said, file)


def _mapping(said: object, file: Path) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise FormatError(f"{file} holds {type(said).__name__}, expected names and values")
    return said


def peek(file: Path) -> dict[str, Any]:
    """A JSON or YAML config, or nothing if it is not there or not one: for recognising."""
    if not file.is_file():
        return {}
    try:
        return read_yaml(file) if file.suffix == ".yaml" else read_json(file)
    except (FormatError, OSError):
        return {}


def need(config: Mapping[str, Any], file: Path, **kinds: type | tuple[type, ...]) -> None:
    """Raise FormatError unless the config says all of this, each of its type."""
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    if wrong:
        says = ", ".join(f"{key}={config.get(key)!r}" for key in wrong)
        raise FormatError(f"{file} lacks or misstates {', '.join(wrong)} ({says})")


def one_of(config: Mapping[str, Any], key: str, file: Path, known: Iterable[Any]) -> Any:
    """A config's value; raises FormatError if it is not one that this package can read."""
    if config.get(key) not in (values := list(known)):
        raise FormatError(
            f"{file}: {key}={config.get(key)!r} is not supported; this package reads "
            f"{', '.join(map(repr, values))}"
        )
    return config[key]


def below(folder: Path, pattern: str) -> list[Path]:
    """Files of this name in the folder and a few folders below it, but hidden ones."""
    paths = (p for depth in range(DEPTH) for p in sorted(folder.glob("*/" * depth + pattern)))
    return [p for p in paths if not any(n[0] == "." for n in p.relative_to(folder).parts)]


def inside(folder: Path, name: object) -> Path:
    """A file that a config names. Raises FormatError unless it lies in the config's folder."""
    if isinstance(name, str) and re.match(r"[a-z]+://", name):
        raise FormatError(
            f"{folder}: its config names {name!r}, which is elsewhere; put that file into the "
            "folder and its name into the config"
        )
    plain = PurePosixPath(name) if isinstance(name, str) and name else None
    if plain is None or plain.is_absolute() or ".." in plain.parts or "\\" in str(name):
        raise FormatError(
            f"{folder}: its config names the file {name!r}; expected one in the folder itself"
        )
    return folder / plain


def by_layer(found: Iterable[tuple[int, Path]], folder: Path, what: str) -> list[Path]:
    """Paths in order of their layers. Raises FormatError unless there is exactly one for every
    layer from 0 up."""
    layers: dict[int, list[Path]] = {}
    for layer, path in found:
        layers.setdefault(layer, []).append(path)
    several = {n: [str(p.relative_to(folder)) for p in ps] for n, ps in layers.items() if ps[1:]}
    if several:
        layer, names = min(several.items())
        raise InputError(
            f"{folder} holds several dictionaries: layer {layer} is in {listed(names)}. Give a "
            f"folder with one {what} for each layer"
        )
    missing = sorted(set(range(max(layers, default=-1) + 1)) - set(layers))
    if missing or not layers:
        lacks = f"layers {listed(missing)}" if missing else "every layer"
        raise FormatError(f"{folder}: lacks the {what} of {lacks}; it has {sorted(layers)}")
    return [layers[n][0] for n in range(len(layers))]


def number_in(name: str, pattern: str) -> int | None:
    """The layer that a name says, by a pattern with one group."""
    found = re.search(pattern, name)
    return int(found[1]) if found else None


def block_hook(name: object) -> tuple[int | None, str | None]:
    """Layer and place of a hook's full name: ``blocks.3.hook_mlp_out`` is 3, ``hook_mlp_out``."""
    found = (
        re.fullmatch(r"blocks\.(\d+|\{[a-z_]*\})\.(.+)", name) if isinstance(name, str) else None
    )
    if not found:
        return None, None
    return int(found[1]) if found[1].isdigit() else None, found[2]


def same(values: Iterable[Any], what: str, where: Path) -> Any:
    """The one value that all layers have, or None if none has one. Raises FormatError if they
    differ."""
    every = list(values)
    if any(value != every[0] for value in every):
        raise FormatError(f"{where}: layers differ in their {what}: {listed(set(every))}")
    return every[0] if every else None


def thresholds(found: Sequence[Tensor | None], *, rectified: bool = True) -> Activation:
    """JumpReLU, or ReLU if no layer has thresholds. ``rectified``: what is below zero is never
    active, whatever the threshold."""
    if all(threshold is None for threshold in found):
        return ReLU()
    some = next(threshold for threshold in found if threshold is not None)
    every = [torch.zeros_like(some) if one is None else one for one in found]
    stacked = torch.stack([one.reshape(some.shape).float() for one in every])
    return JumpReLU(stacked.clamp(min=0) if rectified else stacked)


def check_width(file: TensorFile, name: str, axis: int, width: int) -> None:
    """Raise MismatchError unless a tensor's axis is as wide as its config says."""
    shape = file.shape(name)
    if len(shape) <= axis or shape[axis] != width:
        raise MismatchError(f"{file.path}: {name} is {shape}, the config says a width of {width}")


def layer_axis(file: TensorFile, name: str) -> int:
    """Number of layers of a tensor whose first axis is the layer."""
    return (file.shape(name) or (0,))[0]
