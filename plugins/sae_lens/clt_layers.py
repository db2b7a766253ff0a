"""Attach a CLT in place of all MLPs of a HookedSAETransformer or SAETransformerBridge.

SAELens attaches one SAE to one hook, so a CLT is attached as one SAE per layer. They share the
activations of the forward pass: each layer writes the reconstruction from the features of all
layers up to it. Hooks at a layer's ``hook_sae_acts_post`` therefore affect every layer that its
features write to. With ``use_error_term`` the error is SAELens's: the MLP's output minus the
reconstruction without hooks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_lens import TranscoderConfig
from sae_lens.saes.sae import SAE, SAEMetadata
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_attribution.errors import InputError
from tl_attribution.hosts.registry import host_for
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.plugins.transformer_lens import hook_names
from tl_attribution.plugins.transformer_lens.adapter import TransformerLensHost

if TYPE_CHECKING:
    from tl_attribution.plugins.sae_lens.cross_layer import CrossLayerTranscoderSAE


class AttachedLayerConfig(TranscoderConfig):
    """The configuration of one layer of a CLT."""

    @classmethod
    def architecture(cls) -> str:
        """Not an architecture that SAELens loads: a layer has no weights."""
        return "layer of a cross_layer_transcoder"


@dataclass
class ForwardPass:
    """The activations of the layers that have run in a forward pass: after hooks, and for the error
    term without hooks."""

    clt: CrossLayerTranscoderSAE
    hooked: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)

    def activations(self, layer: int, acts: Tensor, *, clean: bool) -> list[Tensor]:
        """Add ``acts`` of ``layer`` and return the activations of all layers up to it. Raises
        InputError if a layer below has not run."""
        layers = self.clean if clean else self.hooked
        if len(layers) < layer:
            raise InputError(
                f"layer {layer} of the cross-layer transcoder ran without layer {len(layers)}: "
                "attach the whole list of at_each_layer, with one use_error_term for all"
            )
        layers[layer:] = [acts]
        up_to_layer = list(layers)
        if layer == self.clt.cfg.n_layers - 1:
            layers.clear()
        return up_to_layer


class AttachedLayer(SAE[AttachedLayerConfig]):
    """One layer of a CLT: encodes its input, decodes the features of all layers up to it."""

    def __init__(self, cfg: AttachedLayerConfig, layer: int, shared: ForwardPass) -> None:
        super().__init__(cfg)
        self.layer, self.shared = layer, shared

    def initialize_weights(self) -> None:
        """Do nothing: the weights are the CLT's."""

    def encode(self, x: Tensor) -> Tensor:
        """Activations [..., d_sae] from what this layer reads [..., d_in]."""
        clt = self.shared.clt
        self._read = x = self.hook_sae_input(x.to(clt.dtype))
        pre = self.hook_sae_acts_pre(clt.preactivation(self.layer, x))
        return self.hook_sae_acts_post(clt.activate(self.layer, pre))

    def decode(self, feature_acts: Tensor) -> Tensor:
        """The reconstruction of this layer [..., d_in], with the linear skip."""
        clt = self.shared.clt
        # For the error term SAELens decodes again, with modules that are not hooks in their places.
        clean = not isinstance(self.hook_sae_acts_post, HookPoint)
        acts = self.shared.activations(self.layer, feature_acts, clean=clean)
        out = clt.written(self.layer, acts)
        if clt.cfg.skip:
            out = out + clt.skipped(self.layer, self._read)
        return self.hook_sae_recons(out)


def at_each_layer(clt: CrossLayerTranscoderSAE, model: Any) -> list[SAE[Any]]:
    """One SAE per layer, at the hooks of ``model`` where features read and write. Raises InputError
    for another number of layers, and if the model has no such hooks."""
    hooks = _hooks(clt, model)
    shared = ForwardPass(clt)
    return [_attached(layer, read, write, shared) for layer, (read, write) in enumerate(hooks)]


def _attached(layer: int, read: str, write: str, shared: ForwardPass) -> AttachedLayer:
    cfg = shared.clt.cfg
    return AttachedLayer(
        AttachedLayerConfig(
            d_in=cfg.d_in,
            d_sae=cfg.d_sae,
            d_out=cfg.d_in,
            dtype=cfg.dtype,
            device=cfg.device,
            apply_b_dec_to_input=False,
            metadata=SAEMetadata(
                model_name=cfg.metadata.model_name, hook_name=read, hook_name_out=write
            ),
        ),
        layer,
        shared,
    )


def _hooks(clt: CrossLayerTranscoderSAE, model: Any) -> list[tuple[str, str]]:
    """The (read, write) hooks of each layer. Hooks are taken by name where every model has
    them alike: the MLP's input and output, but not norms' hooks, whose place differs between
    models, nor hook_mlp_in, which a HookedTransformer has but may not run."""
    host = host_for(model)
    if host.n_layers != clt.cfg.n_layers:
        raise InputError(
            f"the cross-layer transcoder has {clt.cfg.n_layers} layers, {host.name} has "
            f"{host.n_layers}"
        )
    read, write = clt.cfg.feature_input_hook, clt.cfg.feature_output_hook
    site, target = host.read_site(read), host.write_site(write)
    plain = isinstance(host, TransformerLensHost)
    reads = host.plain_hooks(site, WriteSite(before_norm=False)) if plain else None
    writes = host.plain_hooks(ReadSite("mlp", "none"), target) if plain else None
    layers = range(host.n_layers)
    hooks = (
        reads[0] if reads else [hook_names.block(i, read) for i in layers if site.norm == "affine"],
        writes[1] if writes else [hook_names.block(i, write) for i in layers],
    )
    for hook, in_blocks in zip((read, write), hooks, strict=True):
        if not in_blocks or any(name not in model.hook_dict for name in in_blocks):
            raise InputError(
                f"no hook of {host.name} holds the activations at {hook!r}; use "
                "tla.replacement_logits(model, prompt, tla.load_dictionary(clt)), which computes it"
            )
    return list(zip(*hooks, strict=True))
