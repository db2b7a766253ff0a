"""Open a model: find the adapter that serves it, and the sites that a dictionary reads and writes.

Verbs that do more than trace also check here that the model's host can do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tl_attribution.errors import UnsupportedModelError
from tl_attribution.hosts.precision import compute_in_fp32
from tl_attribution.hosts.protocols import Editable, Traceable, Trainable
from tl_attribution.hosts.registry import host_for
from tl_attribution.hosts.sites import ReadSite, WriteSite


@dataclass(frozen=True, eq=False)
class ModelSites:
    """A model and where features read and write in it."""

    host: Traceable
    read_site: ReadSite
    write_site: WriteSite

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.host.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that activations are computed in."""
        return self.host.compute_dtype


def open_host(model: Any) -> Traceable:
    """Adapt a model. Raises UnsupportedModelError if no plugin serves its class."""
    return host_for(compute_in_fp32(model))


def find_sites(host: Traceable, feature_input_hook: str, feature_output_hook: str) -> ModelSites:
    """A host with the sites of two hooks (names without the block, such as ``hook_resid_mid``).
    Raises NotFoundError for an unknown hook."""
    return ModelSites(
        host, host.read_site(feature_input_hook), host.write_site(feature_output_hook)
    )


def editable(host: Traceable) -> Editable:
    """Check that a host can change MLP outputs. Raises UnsupportedModelError if it cannot."""
    if isinstance(host, Editable):
        return host
    raise _lacks(host, Editable, "interventions, generation and the replacement model need")


def trainable(host: Traceable) -> Trainable:
    """Check that a host can tokenize and read datasets. Raises UnsupportedModelError if it
    cannot."""
    if isinstance(host, Trainable):
        return host
    raise _lacks(host, Trainable, "training and evaluation need")


def _lacks(host: Traceable, protocol: type, needed_by: str) -> UnsupportedModelError:
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    lacking = ", ".join(name for name in methods if not hasattr(host, name))
    return UnsupportedModelError(
        f"{host.name} can be traced, but its host {type(host).__name__} lacks {lacking}, which "
        f"{needed_by}; implement tl_attribution.extend.{protocol.__name__} in the adapter"
    )
