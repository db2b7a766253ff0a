"""Models by name, and a model's own neurons as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_attribution import devices, plugin_loading
from tl_attribution.dictionaries.neurons import Neurons
from tl_attribution.errors import UnsupportedModelError
from tl_attribution.replacement.host import host_for, loader
from tl_attribution.replacement.prompts import compute_in_fp32

ATLAS = Path(__file__).parent / "atlas" / "weights"


def load_model(name: str = "atlas", *, device: str | None = None) -> Any:
    """A host model by name: ``atlas``, the bundled one, a folder in Hugging Face form, or a name
    that the installed host library knows (which may need the network).

    ``device``: where the model is to be (``cuda``, ``mps``, …), and with it all that is computed;
    None: the CPU for a folder and for ``atlas``, the host library's choice for other names.

    Raises NotFoundError for a name that leads nowhere, suggesting the nearest, InputError for a
    device that is not there, and UnsupportedModelError if no host library is installed.
    """
    if device is not None:
        devices.check(device)
    if loader() is None:
        plugin_loading.import_hosts(until=loader)
    load = loader()
    if load is None:
        raise UnsupportedModelError(
            f"no installed plugin can load {name!r}; install transformer-lens, or load the model "
            "yourself and pass it"
        )
    folder = ATLAS if name == "atlas" else Path(name)
    return load(name, folder if folder.is_dir() else None, device)


def neurons(model: Any) -> Neurons:
    """The model's own MLP neurons as a dictionary: no training, no reconstruction error.

    Raises UnsupportedModelError for a model whose MLPs are neither plain nor gated.
    """
    host = host_for(compute_in_fp32(model))
    return Neurons(
        [host.mlp(layer) for layer in range(host.n_layers)],
        feature_input_hook=host.mlp_input_hook,
        feature_output_hook=host.mlp_output_hook,
        model_name=host.name,
    )
