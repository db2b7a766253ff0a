"""Releases of transcoders by SAELens's names, and objects of SAELens, for ``tla.load_dictionary``.

A release holds transcoders of several widths and sparsities (L0, the active features a token), with
a linear skip ("affine") or without. What is wanted follows a colon, in the words of SAELens's ids,
any of them: ``gemma-scope-2-1b-pt-transcoders-all:width_262k_l0_small_affine``, ``…:l0_small``. A
number asks for the L0 nearest to it in each layer: ``…:l0_50``. Left open, it is the smallest
width, then the L0 nearest to 100 on average, then no skip; among what there is for every layer.
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
"""SAELens's loader that sums each feature's decoders, which reconstructs nothing."""


class Setting(NamedTuple):
    """What an id, or a request, says; empty or False: nothing."""

    width: str = ""
    l0: str = ""
    affine: bool = False

    def __str__(self) -> str:
        named = (f"width_{self.width}", bool(self.width)), (f"l0_{self.l0}", bool(self.l0))
        return (
            "_".join(n for n, said in (*named, ("affine", self.affine)) if said) or "the only one"
        )


@dataclass(frozen=True)
class Choice:
    """Transcoders of one setting: for each layer the ids and their L0."""

    setting: Setting
    layers: dict[int, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def ids(self, l0: float) -> list[str]:
        """One id a layer, the one of the nearest L0."""
        return [min(self.layers[i], key=lambda e: abs(e[0] - l0))[1] for i in sorted(self.layers)]

    def rank(self, l0: float) -> tuple[float, float, bool, str]:
        """The default is the lowest."""
        nearest = (
            min((e[0] for e in found), key=lambda x: abs(x - l0)) for found in self.layers.values()
        )
        return (
            _size(self.setting.width),
            abs(mean(nearest) - l0),
            self.setting.affine,
            self.setting.l0,
        )


_WORDS = {"width": r"width_(\d+[km]?)", "l0": r"(?:average_)?l0_(\d+|[a-z]+)", "affine": "affine"}


def setting(text: str) -> tuple[Setting, str]:
    """What a text says of width, L0 and skip, and what is left of the text."""
    said = {}
    for name, pattern in _WORDS.items():
        match = re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text)
        if match:
            said[name] = match[1] if match.groups() else True
            text = text[: match.start()] + text[match.end() :]
    return Setting(**said), text.strip("_/,. ")


def _size(width: str) -> float:
    return float(width.rstrip("km") or 0) * {"k": 1e3, "m": 1e6}.get(width[-1:], 1.0)


def choices(release: PretrainedSAELookup) -> dict[Setting, Choice]:
    """What there is to choose from; an L0 in numbers differs between layers and is no choice."""
    found: dict[Setting, Choice] = {}
    for sae_id in release.saes_map:
        layer = re.search(r"(?:layer_|blocks\.)(\d+)", sae_id)
        if layer is None:
            continue
        said, _ = setting(sae_id)
        l0 = float(said.l0) if said.l0.isdigit() else release.expected_l0.get(sae_id, 0.0)
        if said.l0.isdigit():
            said = said._replace(l0="")
        entries = found.setdefault(said, Choice(said)).layers[int(layer[1])]
        entries.append((l0, sae_id))
    return found


def choose(release: PretrainedSAELookup, request: str) -> list[str]:
    """The ids of one transcoder a layer. Raises NotFoundError for a request that nothing meets,
    listing what there is, and InputError where layers are missing."""
    known = choices(release)
    wanted, rest = setting(request)
    l0 = float(wanted.l0) if wanted.l0.isdigit() else USUAL_L0
    if wanted.l0.isdigit():
        wanted = wanted._replace(l0="")
    fitting = [
        choice
        for choice in known.values()
        if all(not want or want == has for want, has in zip(wanted, choice.setting, strict=True))
    ]
    if rest or not fitting:
        raise NotFoundError(
            f"{release.release} has no {request!r}; choose of "
            f"{', '.join(sorted(map(str, known))) or 'nothing: its ids name no layers'}"
        )
    last = max(layer for choice in known.values() for layer in choice.layers)
    whole = [choice for choice in fitting if len(choice.layers) == last + 1]
    if not whole:
        fullest = max(fitting, key=lambda choice: len(choice.layers)).layers
        missing = sorted(set(range(last + 1)) - set(fullest))
        everything = f"{release.release}-all"
        raise InputError(
            f"{release.release} has no {request or 'transcoders'} for layers "
            f"{', '.join(map(str, missing))}, and a dictionary needs every layer"
            + (f": try {everything!r}" if everything in get_pretrained_saes_directory() else "")
        )
    return min(whole, key=lambda choice: choice.rank(l0)).ids(l0)


def load(source: Any, wanted: LoadOptions) -> Dictionary | None:
    """A dictionary from a release's name, a list of transcoders or a CLT of SAELens, or None."""
    if isinstance(source, CrossLayerTranscoderSAE):
        return source.to_dictionary(device=wanted.device, dtype=wanted.dtype)
    if isinstance(source, SAE):
        source = [source]
    if isinstance(source, list | tuple) and any(isinstance(item, SAE) for item in source):
        return convert.assemble(convert.part(sae, wanted) for sae in source)
    if not isinstance(source, str):
        return None
    name, _, request = source.partition(":")
    release = get_pretrained_saes_directory().get(name)
    return None if release is None else _download(release, request, wanted)


def _download(release: PretrainedSAELookup, request: str, wanted: LoadOptions) -> Transcoder:
    """Raises HubError for what goes wrong on the way, without SAELens's own error."""
    if release.conversion_func == SUMMED:
        raise InputError(
            f"{release.release} sums each feature's decoders over layers, which does not "
            f"reconstruct what the MLPs write; use the cross-layer transcoder itself, "
            f"{release.repo_id!r}"
        )
    dtype = "float32" if wanted.dtype is None else dtype_to_str(wanted.dtype)
    device = wanted.device or "cpu"

    def fetched(id_: str) -> Any:
        with translate_errors(f"cannot download {id_} of {release.release}", release.repo_id):
            return SAE.from_pretrained(release.release, id_, device=device, dtype=dtype)

    return convert.assemble(convert.part(fetched(id_), wanted) for id_ in choose(release, request))


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
