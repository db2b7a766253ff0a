"""A cross-layer transcoder (CLT) as SAELens's architecture ``cross_layer_transcoder``.

Everything has one more axis than in SAELens's transcoders, the layer, and it comes first:
``encode`` maps [layer, …, d_in] to [layer, …, d_sae] and ``decode`` back, where … are SAELens's own
axes, such as [batch, position]. Weights: ``W_enc`` [layer, d_in, d_sae], ``b_enc`` [layer, d_sae],
``b_dec`` [layer, d_in], ``W_skip`` [layer, out, in] if ``cfg.skip``, ``threshold`` [layer, d_sae]
if the activation is JumpReLU; ``W_dec[l]`` [d_sae, written, d_in] holds the decoders of layer l's
features into layers l, l+1, …
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import register_sae_class
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAE, SAEConfig, SAEMetadata
from safetensors.torch import save_file
from torch import Tensor, nn

from tl_attribution.dictionaries import activations
from tl_attribution.dictionaries.cross_layer import CrossLayerTranscoder
from tl_attribution.dictionaries.formats import sae_lens_clt
from tl_attribution.dictionaries.formats.sae_lens_clt import ARCHITECTURE
from tl_attribution.errors import InputError, MismatchError
from tl_attribution.files import whole_file, write_whole
from tl_attribution.plugin_loading import PluginWarning

Reads = Float[Tensor, "layer *batch d_model"]
Acts = Float[Tensor, "layer *batch feature"]


class CrossLayerMetadata(SAEMetadata):
    """SAELens's metadata without a ``hook_name``, which all that attaches an SAE to one hook reads:
    it would run the model with a part of the CLT, or none of it, and say nothing."""

    @property
    def hook_name(self) -> str:
        """Always InputError: a CLT reads at every layer."""
        raise InputError(
            "a cross-layer transcoder reads and writes at every layer, so it has no hook_name; to "
            "run a model with it in place of all MLPs use model.run_with_saes(tokens, "
            "saes=clt.at_each_layer(model)) or tla.replacement_logits(model, prompt, "
            "tla.load_dictionary(clt))"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> CrossLayerMetadata:
        """SAELens's own would make it an SAEMetadata."""
        return type(self)(**copy.deepcopy(self.to_dict(), memo))


@dataclass
class CrossLayerTranscoderConfig(SAEConfig):
    """What SAELens's configurations say, and what a CLT has besides."""

    apply_b_dec_to_input: bool = False
    metadata: Any = field(default_factory=SAEMetadata)  # a dict while SAELens reads a file
    n_layers: int = 1
    """Layers of the model, all of which have features."""
    window: int = 1
    """Layers that the features of layer 0 write to, their own included; ``n_layers`` for all."""
    skip: bool = False
    """Whether there is a linear skip from what each layer reads to what it writes."""
    activation: dict[str, Any] = field(default_factory=lambda: {"name": "relu"})
    """``name``: relu, jumprelu, topk with ``k``, or batchtopk with ``k`` and ``threshold``."""
    feature_input_hook: str = "mlp.hook_in"
    """Where features read in each block."""
    feature_output_hook: str = "hook_mlp_out"
    """What they reconstruct in each block."""

    @classmethod
    def architecture(cls) -> str:
        """The name that SAELens finds the class by."""
        return ARCHITECTURE

    def __post_init__(self) -> None:
        """Raises InputError for options of SAELens that a CLT does not have."""
        super().__post_init__()
        plain = (self.normalize_activations, self.reshape_activations, self.apply_b_dec_to_input)
        if plain != ("none", "none", False):
            raise InputError(
                "a cross-layer transcoder reads activations as they are: normalize_activations and "
                "reshape_activations must be 'none' and apply_b_dec_to_input False, got "
                f"{', '.join(map(repr, plain))}"
            )
        if not 1 <= self.window <= self.n_layers:
            raise InputError(
                f"window must be between 1 and the {self.n_layers} layers, got {self.window}"
            )


class CrossLayerTranscoderSAE(SAE[CrossLayerTranscoderConfig]):
    """A CLT that SAELens loads, saves and hooks like its own classes. To run a model with it, see
    :meth:`at_each_layer`."""

    b_enc: nn.Parameter
    W_skip: nn.Parameter
    threshold: nn.Parameter

    def __init__(self, cfg: CrossLayerTranscoderConfig) -> None:
        cfg.metadata = CrossLayerMetadata(**cfg.metadata.to_dict())
        super().__init__(cfg)

    @classmethod
    def from_dictionary(cls, dictionary: CrossLayerTranscoder) -> CrossLayerTranscoderSAE:
        """The same CLT, its weights copied."""
        state = sae_lens_clt.state(dictionary)
        said = sae_lens_clt.config(dictionary, state)
        said["metadata"] = SAEMetadata(model_name=dictionary.model_name)
        del said["architecture"]
        sae = cls(CrossLayerTranscoderConfig(**said))
        sae.load_state_dict(state)
        return sae

    def to_dictionary(
        self, *, device: str | None = None, dtype: torch.dtype | None = None
    ) -> CrossLayerTranscoder:
        """The same CLT for :func:`tl_attribution.attribute` and all else, its weights copied."""
        state = {
            name: t.detach().to(device=device, dtype=dtype, copy=True)
            for name, t in self.state_dict().items()
        }
        return sae_lens_clt.assemble(self.cfg.to_dict(), state, self.cfg.metadata.model_name)

    def initialize_weights(self) -> None:
        """Zeros: weights come from files or a dictionary; tla.train trains them."""
        cfg = self.cfg

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=self.dtype, device=self.device))

        self.W_enc = zeros(cfg.n_layers, cfg.d_in, cfg.d_sae)
        self.b_enc = zeros(cfg.n_layers, cfg.d_sae)
        self.b_dec = zeros(cfg.n_layers, cfg.d_in)
        self.W_dec: nn.ParameterList = nn.ParameterList(  # type: ignore[assignment]  # SAELens has one
            zeros(cfg.d_sae, min(cfg.window, cfg.n_layers - layer), cfg.d_in)
            for layer in range(cfg.n_layers)
        )
        if cfg.skip:
            self.W_skip = zeros(cfg.n_layers, cfg.d_in, cfg.d_in)
        if cfg.activation.get("name") == "jumprelu":
            self.threshold = zeros(cfg.n_layers, cfg.d_sae)

    # Layer by layer

    def preactivation(self, layer: int, x: Float[Tensor, "*batch d_model"]) -> Tensor:
        """Pre-activations [..., d_sae] of one layer's features."""
        return x @ self.W_enc[layer] + self.b_enc[layer]

    def activate(self, layer: int, pre: Float[Tensor, "*batch feature"]) -> Tensor:
        """Activations [..., d_sae] of one layer's features."""
        threshold = self.threshold if hasattr(self, "threshold") else None
        activation = activations.from_config(self.cfg.activation, threshold)
        return activation(pre.reshape(-1, pre.shape[-1]), layer).reshape(pre.shape)

    def written(self, layer: int, acts: Sequence[Float[Tensor, "*batch feature"]]) -> Tensor:
        """What is written at ``layer`` [..., d_in] by the features of the layers up to it, whose
        activations ``acts`` are, and by the bias, without the skip."""
        out = self.b_dec[layer]
        for source in range(max(0, layer - self.cfg.window + 1), layer + 1):
            out = out + acts[source] @ self.W_dec[source][:, layer - source]
        return out

    def skipped(
        self, layer: int, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What the linear skip adds at a layer, if there is one."""
        return x @ self.W_skip[layer].T

    # All layers at once

    def encode(self, x: Reads) -> Acts:
        """Activations [layer, …, d_sae]. Raises MismatchError for another shape of ``x``."""
        self._check(x, self.cfg.d_in, "x", "d_in")
        layers = range(self.cfg.n_layers)
        x = self.hook_sae_input(x.to(self.dtype))
        pre = self.hook_sae_acts_pre(torch.stack([self.preactivation(i, x[i]) for i in layers]))
        return self.hook_sae_acts_post(torch.stack([self.activate(i, pre[i]) for i in layers]))

    def decode(self, feature_acts: Acts) -> Reads:
        """Reconstruction [layer, …, d_in], without the linear skip, as in SAELens's own classes.
        Raises MismatchError for another shape."""
        self._check(feature_acts, self.cfg.d_sae, "feature_acts", "d_sae")
        acts = feature_acts.unbind()
        out = torch.stack([self.written(i, acts) for i in range(self.cfg.n_layers)])
        return self.hook_sae_recons(out)

    def forward(self, x: Reads) -> Reads:
        """Reconstruction [layer, …, d_in], with the linear skip."""
        out = self.decode(self.encode(x))
        if self.cfg.skip:
            x = x.to(self.dtype)
            out = out + torch.stack([self.skipped(i, x[i]) for i in range(self.cfg.n_layers)])
        return self.hook_sae_output(out)

    def _check(self, x: Tensor, width: int, name: str, axis: str) -> None:
        if x.ndim < 2 or x.shape[0] != self.cfg.n_layers or x.shape[-1] != width:
            raise MismatchError(
                f"{name} is {tuple(x.shape)}; this cross-layer transcoder takes "
                f"[layer={self.cfg.n_layers}, …, {axis}={width}]"
            )

    def at_each_layer(self, model: Any) -> list[SAE[Any]]:
        """One SAE a layer, to be attached together to a HookedSAETransformer or a
        SAETransformerBridge: ``model.run_with_saes(tokens, saes=clt.at_each_layer(model))``. See
        plugins/sae_lens/attached.py."""
        from tl_attribution.plugins.sae_lens.attached import at_each_layer

        return at_each_layer(self, model)  # type: ignore[arg-type]  # one file of two names to pyright

    # What SAELens does to one layer's weights

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Give each feature's decoder, over all layers it writes to, norm 1. Raises InputError for
        TopK and BatchTopK, whose choice of features it would change."""
        if self.cfg.activation["name"] not in ("relu", "jumprelu"):
            raise InputError(
                f"decoder norms cannot be folded with {self.cfg.activation['name']}: it would "
                "change which features are active"
            )
        norms = torch.stack([w.flatten(1).norm(dim=1) for w in self.W_dec]).clamp(min=1e-8)
        for weights, norm in zip(self.W_dec, norms, strict=True):
            weights.div_(norm[:, None, None])
        self.W_enc.mul_(norms[:, None])
        self.b_enc.mul_(norms)
        if hasattr(self, "threshold"):
            self.threshold.mul_(norms)

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Always InputError: nothing is normalised."""
        del scaling_factor
        raise InputError("a cross-layer transcoder reads activations as they are: nothing to fold")

    def get_name(self) -> str:
        """SAELens's name of an SAE, with the hook of all layers."""
        cfg = self.cfg
        return f"clt_{cfg.metadata.model_name}_{cfg.feature_input_hook}_{cfg.d_sae}"

    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write a folder that ``SAE.load_from_disk`` and ``tla.load_dictionary`` read, each file
        whole or not at all; returns the paths of the weights and the configuration."""
        weights, config = Path(path) / SAE_WEIGHTS_FILENAME, Path(path) / SAE_CFG_FILENAME
        state = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with whole_file(weights) as temporary:
            save_file(state, temporary)
        write_whole(config, json.dumps(self.cfg.to_dict(), indent=2).encode())
        return weights, config


def register() -> None:
    """Let SAELens find the class. Registering again changes nothing; where something else holds the
    name already it keeps it, and a PluginWarning says so."""
    taken = SAE_CLASS_REGISTRY.get(ARCHITECTURE)
    if taken is None:
        register_sae_class(ARCHITECTURE, CrossLayerTranscoderSAE, CrossLayerTranscoderConfig)
    elif taken[0] is not CrossLayerTranscoderSAE:
        warnings.warn(
            f"SAELens's architecture {ARCHITECTURE!r} is {taken[0].__module__}."
            f"{taken[0].__qualname__}'s already, so SAE.load_from_disk does not give "
            "tl-attribution's; tla.load_dictionary reads its files all the same",
            PluginWarning,
            stacklevel=2,
        )
