"""Load models by name, and open a model's own neurons as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_attribution import devices, plugin_loading
from tl_attribution.dictionaries.neurons import Neurons
from tl_attribution.errors import NotFoundError, UnsupportedModelError
from tl_attribution.hosts.opening import open_host
from tl_attribution.hosts.registry import MODEL_LOADERS

ATLAS = Path(__file__).parent.parent / "atlas" / "weights"


def load_model(name: str = "atlas", *, device: str | None = None) -> Any:
    """Load a model: ``atlas``, the bundled one, a folder in Hugging Face form, or a name that the
    installed host library knows (which may need the network).

    ``device``: the device of the model (``cuda``, ``mps``, …), where everything is then computed;
    None: the CPU for a folder and for ``atlas``, the host library's choice for other names.

    Raises NotFoundError for an unknown name, suggesting the nearest, InputError for a device that
    is not available, and UnsupportedModelError if no host library is installed.
    """
    if device is not None:
        devices.check(device)
    if not MODEL_LOADERS:
        plugin_loading.import_hosts(until=lambda: MODEL_LOADERS)
    path = ATLAS if name == "atlas" else Path(name)
    folder = path if path.is_dir() else None
    errors = []
    for load in MODEL_LOADERS.values():
        try:
            return load(name, folder, device)
        except NotFoundError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    raise UnsupportedModelError(
        f"no installed plugin can load {name!r}; install transformer-lens, or load the model "
        "yourself and pass it"
    )


def neurons(model: Any) -> Neurons:
    """Open the model's own MLP neurons as a dictionary: no training, no reconstruction error.

    Raises UnsupportedModelError for a model whose MLPs are neither plain nor gated.
    """
    host = open_host(model)
    return Neurons(
        [host.mlp(layer) for layer in range(host.n_layers)],
        feature_input_hook=host.mlp_input_hook,
        feature_output_hook=host.mlp_output_hook,
        model_name=host.name,
    )
