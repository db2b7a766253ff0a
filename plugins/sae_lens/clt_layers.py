"""A CLT in place of all MLPs of a HookedSAETransformer or SAETransformerBridge.

SAELens attaches one SAE to one hook, so a CLT is attached as one SAE a layer. They share the
activations of the forward pass: each layer writes what the features of all layers up to it give.
What hooks do to a layer's ``hook_sae_acts_post`` therefore reaches every layer that those features
write to. With ``use_error_term`` the error is what SAELens's is, the MLP's output less what the
unhooked features of all layers write.
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
    """Of one layer of a CLT."""

    @classmethod
    def architecture(cls) -> str:
        """Not one that SAELens loads: a layer has no weights of its own."""
        return "layer of a cross_layer_transcoder"


@dataclass
class Pass:
    """One forward pass: the activations of the layers that have run, as hooks left them and, for
    the error term, as they were without hooks."""

    clt: CrossLayerTranscoderSAE
    hooked: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)

    def activations(self, layer: int, acts: Tensor, *, clean: bool) -> list[Tensor]:
        """Those of all layers up to ``layer``, whose are ``acts``. Raises InputError if a layer
        below did not run before."""
        found = self.clean if clean else self.hooked
        if len(found) < layer:
            raise InputError(
                f"layer {layer} of the cross-layer transcoder ran without layer {len(found)}: "
                "attach the whole list of at_each_layer, with one use_error_term for all"
            )
        found[layer:] = [acts]
        up_to_here = list(found)
        if layer == self.clt.cfg.n_layers - 1:
            found.clear()
        return up_to_here


class AttachedLayer(SAE[AttachedLayerConfig]):
    """One layer of a CLT: encodes what its layer reads, decodes what all layers write there."""

    def __init__(self, cfg: AttachedLayerConfig, layer: int, shared: Pass) -> None:
        super().__init__(cfg)
        self.layer, self.shared = layer, shared

    def initialize_weights(self) -> None:
        """The weights are the CLT's."""

    def encode(self, x: Tensor) -> Tensor:
        """Activations [..., d_sae] from what this layer reads [..., d_in]."""
        clt = self.shared.clt
        self._read = x = self.hook_sae_input(x.to(clt.dtype))
        pre = self.hook_sae_acts_pre(clt.preactivation(self.layer, x))
        return self.hook_sae_acts_post(clt.activate(self.layer, pre))

    def decode(self, feature_acts: Tensor) -> Tensor:
        """What is written at this layer [..., d_in], the linear skip included."""
        clt = self.shared.clt
        # SAELens asks a second time, with blank modules for hooks, to know the error.
        clean = not isinstance(self.hook_sae_acts_post, HookPoint)
        acts = self.shared.activations(self.layer, feature_acts, clean=clean)
        out = clt.written(self.layer, acts)
        if clt.cfg.skip:
            out = out + clt.skipped(self.layer, self._read)
        return self.hook_sae_recons(out)


def at_each_layer(clt: CrossLayerTranscoderSAE, model: Any) -> list[SAE[Any]]:
    """One SAE a layer, with the hooks of ``model`` that hold what features read and write. Raises
    InputError for another number of layers, and if the model has no such hooks."""
    hooks = _hooks(clt, model)
    shared = Pass(clt)
    return [_attached(layer, read, write, shared) for layer, (read, write) in enumerate(hooks)]


def _attached(layer: int, read: str, write: str, shared: Pass) -> AttachedLayer:
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
    """Each layer's hooks. A hook of the very name serves where it holds just that: the MLP's own
    input and output, but not norms' hooks, whose place differs between models, nor hook_mlp_in,
    which a HookedTransformer has but may not pass."""
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
    found = (
        reads[0] if reads else [hook_names.block(i, read) for i in layers if site.norm == "affine"],
        writes[1] if writes else [hook_names.block(i, write) for i in layers],
    )
    for hook, in_blocks in zip((read, write), found, strict=True):
        if not in_blocks or any(name not in model.hook_dict for name in in_blocks):
            raise InputError(
                f"no hook of {host.name} holds what features have at {hook!r}; use "
                "tla.replacement_logits(model, prompt, tla.load_dictionary(clt)), which computes it"
            )
    return list(zip(*found, strict=True))
