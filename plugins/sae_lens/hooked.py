"""The adapter of SAELens's HookedSAETransformer, for models without attached SAEs."""

from __future__ import annotations

from typing import Any

from tl_attribution.errors import UnsupportedModelError
from tl_attribution.plugins.transformer_lens.hooked import HookedTransformerHost


def check_nothing_attached(model: Any) -> None:
    """Raise UnsupportedModelError if SAEs are attached: they replace hooks."""
    if model.acts_to_saes:
        raise UnsupportedModelError(
            f"{model.cfg.model_name} has SAEs attached at {', '.join(sorted(model.acts_to_saes))}; "
            "remove them with model.reset_saes()"
        )


class SaeHookedHost(HookedTransformerHost):
    """A HookedSAETransformer as :class:`~tl_attribution.hosts.protocols.Host`."""

    def __init__(self, model: Any) -> None:
        check_nothing_attached(model)
        super().__init__(model)
