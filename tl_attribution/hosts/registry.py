"""The adapters of model classes, and the functions that load models by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

from tl_attribution.errors import UnsupportedModelError
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.registry import Registry

HostAdapter = Callable[[Any], Traceable]
"""Adapts a model. Its result may also be Editable, Trainable, or both."""

HOSTS: Registry[HostAdapter] = Registry("host")
"""Adapters by model class. A model is served by the adapter of its nearest class."""

LoadModel = Callable[
    [str, Union[Path, None], Union[str, None]],  # noqa: UP007  # evaluated on Python 3.10
    Any,
]
"""(name; its folder in Hugging Face form, or None to look the name up; device, or None for the
library's choice) → a model that has an adapter. Raises NotFoundError for an unknown name."""

MODEL_LOADERS: Registry[LoadModel] = Registry("model loader")
"""Loaders by library. The last registered is tried first; the first that knows the name is used."""


def host_for(model: Any) -> Traceable:
    """Adapt a model with the adapter of the nearest class it inherits from. Raises
    UnsupportedModelError if no plugin serves its class."""
    adapter = HOSTS.for_class(type(model))
    if adapter is None:
        names = sorted(cls.__name__ for cls in HOSTS if isinstance(cls, type))
        served = ", ".join(names) or "none (import transformer_lens)"
        raise UnsupportedModelError(
            f"a {type(model).__module__}.{type(model).__qualname__} cannot be traced; models "
            f"served by the installed plugins: {served}. Load a Hugging Face model with "
            "TransformerBridge.boot_transformers(name)"
        )
    return adapter(model)
