"""Helpers of the readers: their result, configs, layers by number, and errors."""

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
from tl_attribution.dictionaries.weights import TranscoderKind
from tl_attribution.errors import FormatError, InputError, MismatchError

DEPTH = 4
"""Number of folder levels in which a dictionary's files are looked for."""


class DictionaryFiles(NamedTuple):
    """The contents of a dictionary's files. Hooks and model are None if the files don't have them,
    and the activation is None for a TopK of unknown k."""

    kind: TranscoderKind
    layers: Sequence[StoredLayer]
    activation: Activation | None
    feature_input_hook: str | None = None
    feature_output_hook: str | None = None
    model_name: str | None = None


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FormatError for anything else."""
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise FormatError(f"{file} is missing: the dictionary is not complete") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not JSON: {error}") from error
    return _mapping(config, file)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values. Raises FormatError for anything else, and for tags that
    construct objects."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not plain YAML: {error}") from error
    return _mapping(config, file)


def _mapping(config: object, file: Path) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise FormatError(f"{file} holds {type(config).__name__}, expected names and values")
    return config


def peek(file: Path) -> dict[str, Any]:
    """Read a JSON or YAML config for recognizing a folder: empty if it is missing or invalid."""
    if not file.is_file():
        return {}
    try:
        return read_yaml(file) if file.suffix == ".yaml" else read_json(file)
    except (FormatError, OSError):
        return {}


def need(config: Mapping[str, Any], file: Path, **kinds: type | tuple[type, ...]) -> None:
    """Raise FormatError unless the config has all of these keys, with values of these types."""
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    if wrong:
        values = ", ".join(f"{key}={config.get(key)!r}" for key in wrong)
        raise FormatError(f"{file} lacks or misstates {', '.join(wrong)} ({values})")


def one_of(config: Mapping[str, Any], key: str, file: Path, known: Iterable[Any]) -> Any:
    """A config's value. Raises FormatError for a value that this package cannot read."""
    if config.get(key) not in (values := list(known)):
        raise FormatError(
            f"{file}: {key}={config.get(key)!r} is not supported; this package reads "
            f"{', '.join(map(repr, values))}"
        )
    return config[key]


def below(folder: Path, pattern: str) -> list[Path]:
    """Files of this name in the folder and fewer than :data:`DEPTH` folders below, except hidden
    ones."""
    paths = (p for depth in range(DEPTH) for p in sorted(folder.glob("*/" * depth + pattern)))
    return [p for p in paths if not any(n[0] == "." for n in p.relative_to(folder).parts)]


def inside(folder: Path, name: object) -> Path:
    """The path of a file that a config names. Raises FormatError unless it is in the folder."""
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


def by_layer(numbered: Iterable[tuple[int, Path]], folder: Path, part: str) -> list[Path]:
    """Order paths by their layers. Raises FormatError for missing layers, and InputError for two
    paths of one layer. ``part`` is what a path holds, for the errors."""
    layers: dict[int, list[Path]] = {}
    for layer, path in numbered:
        layers.setdefault(layer, []).append(path)
    several = {n: [str(p.relative_to(folder)) for p in ps] for n, ps in layers.items() if ps[1:]}
    if several:
        layer, names = min(several.items())
        raise InputError(
            f"{folder} holds several dictionaries: layer {layer} is in {listed(names)}. Give a "
            f"folder with one {part} for each layer"
        )
    missing = sorted(set(range(max(layers, default=-1) + 1)) - set(layers))
    if missing or not layers:
        lacks = f"layers {listed(missing)}" if missing else "every layer"
        raise FormatError(f"{folder}: lacks the {part} of {lacks}; it has {sorted(layers)}")
    return [layers[n][0] for n in range(len(layers))]


def number_in(name: str, pattern: str) -> int | None:
    """The number in a name, by a pattern with one group; None if it does not match."""
    match = re.search(pattern, name)
    return int(match[1]) if match else None


def block_hook(name: object) -> tuple[int | None, str | None]:
    """Split a hook's full name: ``blocks.3.hook_mlp_out`` into 3 and ``hook_mlp_out``."""
    match = (
        re.fullmatch(r"blocks\.(\d+|\{[a-z_]*\})\.(.+)", name) if isinstance(name, str) else None
    )
    if not match:
        return None, None
    return int(match[1]) if match[1].isdigit() else None, match[2]


def same(values: Iterable[Any], name: str, folder: Path) -> Any:
    """The value that all layers share, or None without layers. Raises FormatError if they
    differ; ``name`` is the value's, for the error."""
    per_layer = list(values)
    if any(value != per_layer[0] for value in per_layer):
        raise FormatError(f"{folder}: layers differ in their {name}: {listed(set(per_layer))}")
    return per_layer[0] if per_layer else None


def thresholds(per_layer: Sequence[Tensor | None], *, rectified: bool = True) -> Activation:
    """JumpReLU with these thresholds, zero for layers without; ReLU if no layer has thresholds.
    ``rectified``: pre-activations below zero are never active, whatever the threshold."""
    if all(threshold is None for threshold in per_layer):
        return ReLU()
    first = next(threshold for threshold in per_layer if threshold is not None)
    filled = [torch.zeros_like(first) if t is None else t for t in per_layer]
    stacked = torch.stack([threshold.reshape(first.shape).float() for threshold in filled])
    return JumpReLU(stacked.clamp(min=0) if rectified else stacked)


def check_width(file: TensorFile, name: str, axis: int, width: int) -> None:
    """Raise MismatchError unless a tensor's axis has the width of the config."""
    shape = file.shape(name)
    if len(shape) <= axis or shape[axis] != width:
        raise MismatchError(f"{file.path}: {name} is {shape}, the config says a width of {width}")


def layer_axis(file: TensorFile, name: str) -> int:
    """Number of layers of a tensor whose first axis is the layer."""
    return (file.shape(name) or (0,))[0]
