"""Open a model: find the host that serves it, and the sites that a dictionary stands between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tl_attribution.hosts.precision import compute_in_fp32
from tl_attribution.hosts.protocols import Host, host_for
from tl_attribution.hosts.sites import ReadSite, WriteSite


@dataclass(frozen=True, eq=False)
class ModelSites:
    """A model and where features read and write in it. Training starts from this."""

    host: Host
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


def open_host(model: Any) -> Host:
    """The host of a model. Raises UnsupportedModelError if no plugin serves its type."""
    return host_for(compute_in_fp32(model))


def open_sites(model: Any, feature_input_hook: str, feature_output_hook: str) -> ModelSites:
    """A model with the sites of two hooks (names without the block, such as ``hook_resid_mid``).

    Raises UnsupportedModelError for a type of model that no plugin serves, and NotFoundError for an
    unknown hook.
    """
    return find_sites(open_host(model), feature_input_hook, feature_output_hook)


def find_sites(host: Host, feature_input_hook: str, feature_output_hook: str) -> ModelSites:
    """A host with the sites of two hooks. Raises NotFoundError for an unknown hook."""
    return ModelSites(
        host, host.read_site(feature_input_hook), host.write_site(feature_output_hook)
    )
