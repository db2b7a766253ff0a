"""Load SAELens's releases of transcoders by name, and its objects, in ``tla.load_dictionary``.

A release holds transcoders of several widths and sparsities (L0, the active features per token),
with a linear skip ("affine") or without. The choice follows a colon, in any words of SAELens's ids:
``gemma-scope-2-1b-pt-transcoders-all:width_262k_l0_small_affine``, ``…:l0_small``. A number is the
L0 to be nearest to in each layer: ``…:l0_50``. The default, among the settings that every layer
has, is the smallest width, then the L0 nearest to 100 on average, then no skip.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, NamedTuple

from sae_lens.loading.pretrained_saes_directory import (
    PretrainedSAELookup,
    get_pretrained_saes_directory,
)
from sae_lens.saes.sae import SAE
from sae_lens.util import dtype_to_str

from tl_attribution.dictionaries.base import Dictionary
from tl_attribution.dictionaries.plugin_sources import DictionarySource, LoadOptions
from tl_attribution.dictionaries.transcoder import Transcoder
from tl_attribution.errors import InputError, NotFoundError
from tl_attribution.plugins.huggingface_hub.hub_errors import translate_errors
from tl_attribution.plugins.sae_lens import convert
from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE

USUAL_L0 = 100.0
SUMMED = "mntss_clt_layer_transcoder"
"""SAELens's loader that sums each feature's decoders, so that they reconstruct no MLP."""


class Setting(NamedTuple):
    """Width, L0 and skip of an id or a request; empty or False where it has none."""

    width: str = ""
    l0: str = ""
    affine: bool = False

    def __str__(self) -> str:
        named = (f"width_{self.width}", bool(self.width)), (f"l0_{self.l0}", bool(self.l0))
        return (
            "_".join(n for n, is_set in (*named, ("affine", self.affine)) if is_set)
            or "the only one"
        )


@dataclass(frozen=True)
class Choice:
    """Transcoders of one setting: for each layer the ids and their L0."""

    setting: Setting
    layers: dict[int, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def ids(self, l0: float) -> list[str]:
        """The id of the nearest L0 of each layer."""
        return [min(self.layers[i], key=lambda e: abs(e[0] - l0))[1] for i in sorted(self.layers)]

    def rank(self, l0: float) -> tuple[float, float, bool, str]:
        """Sort key: the lowest is the default."""
        nearest = (
            min((e[0] for e in entries), key=lambda x: abs(x - l0))
            for entries in self.layers.values()
        )
        return (
            _size(self.setting.width),
            abs(mean(nearest) - l0),
            self.setting.affine,
            self.setting.l0,
        )


_WORDS = {"width": r"width_(\d+[km]?)", "l0": r"(?:average_)?l0_(\d+|[a-z]+)", "affine": "affine"}


def setting(text: str) -> tuple[Setting, str]:
    """Parse width, L0 and skip of a text; returns the rest of the text too."""
    parts = {}
    for name, pattern in _WORDS.items():
        match = re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text)
        if match:
            parts[name] = match[1] if match.groups() else True
            text = text[: match.start()] + text[match.end() :]
    return Setting(**parts), text.strip("_/,. ")


def _size(width: str) -> float:
    return float(width.rstrip("km") or 0) * {"k": 1e3, "m": 1e6}.get(width[-1:], 1.0)


def choices(release: PretrainedSAELookup) -> dict[Setting, Choice]:
    """The choices of a release by setting. An L0 in numbers differs between layers, so it is not
    part of the setting."""
    by_setting: dict[Setting, Choice] = {}
    for sae_id in release.saes_map:
        layer = re.search(r"(?:layer_|blocks\.)(\d+)", sae_id)
        if layer is None:
            continue
        key, _ = setting(sae_id)
        l0 = float(key.l0) if key.l0.isdigit() else release.expected_l0.get(sae_id, 0.0)
        if key.l0.isdigit():
            key = key._replace(l0="")
        entries = by_setting.setdefault(key, Choice(key)).layers[int(layer[1])]
        entries.append((l0, sae_id))
    return by_setting


def choose(release: PretrainedSAELookup, request: str) -> list[str]:
    """Choose the ids of one transcoder per layer. Raises NotFoundError for a request that no
    setting meets, listing the settings, and InputError if layers are missing."""
    known = choices(release)
    requested, rest = setting(request)
    l0 = float(requested.l0) if requested.l0.isdigit() else USUAL_L0
    if requested.l0.isdigit():
        requested = requested._replace(l0="")
    fitting = [
        choice
        for choice in known.values()
        if all(not r or r == value for r, value in zip(requested, choice.setting, strict=True))
    ]
    if rest or not fitting:
        raise NotFoundError(
            f"{release.release} has no {request!r}; choose from "
            f"{', '.join(sorted(map(str, known))) or 'nothing: its ids name no layers'}"
        )
    last = max(layer for choice in known.values() for layer in choice.layers)
    complete = [choice for choice in fitting if len(choice.layers) == last + 1]
    if not complete:
        fullest = max(fitting, key=lambda choice: len(choice.layers)).layers
        missing = sorted(set(range(last + 1)) - set(fullest))
        all_layers = f"{release.release}-all"
        raise InputError(
            f"{release.release} has no {request or 'transcoders'} for layers "
            f"{', '.join(map(str, missing))}, and a dictionary needs every layer"
            + (f": try {all_layers!r}" if all_layers in get_pretrained_saes_directory() else "")
        )
    return min(complete, key=lambda choice: choice.rank(l0)).ids(l0)


def load(source: Any, options: LoadOptions) -> Dictionary | None:
    """Load a release by name, a list of transcoders or a CLT of SAELens; None for other sources."""
    if isinstance(source, CrossLayerTranscoderSAE):
        return source.to_dictionary(device=options.device, dtype=options.dtype)
    if isinstance(source, SAE):
        source = [source]
    if isinstance(source, list | tuple) and any(isinstance(item, SAE) for item in source):
        return convert.assemble(convert.convert(sae, options) for sae in source)
    if not isinstance(source, str):
        return None
    name, _, request = source.partition(":")
    release = get_pretrained_saes_directory().get(name)
    return None if release is None else _download(release, request, options)


def _download(release: PretrainedSAELookup, request: str, options: LoadOptions) -> Transcoder:
    """Raises HubError in place of SAELens's errors."""
    if release.conversion_func == SUMMED:
        raise InputError(
            f"{release.release} sums each feature's decoders over layers, which does not "
            f"reconstruct what the MLPs write; use the cross-layer transcoder itself, "
            f"{release.repo_id!r}"
        )
    dtype = "float32" if options.dtype is None else dtype_to_str(options.dtype)
    device = options.device or "cpu"

    def download(id_: str) -> Any:
        with translate_errors(f"cannot download {id_} of {release.release}", release.repo_id):
            return SAE.from_pretrained(release.release, id_, device=device, dtype=dtype)

    return convert.assemble(
        convert.convert(download(id_), options) for id_ in choose(release, request)
    )


def names() -> Iterable[str]:
    """Names of the releases of transcoders for all layers."""
    directory = get_pretrained_saes_directory()
    return [
        name
        for name, release in directory.items()
        if "transcoder" in name and release.conversion_func != SUMMED
        if f"{name}-all" not in directory
    ]


SOURCE = DictionarySource(load, names)
