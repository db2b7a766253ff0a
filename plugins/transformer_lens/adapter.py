"""The adapter of TransformerLens's models, but for what differs between their two classes."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_attribution.dictionaries.neurons import MlpWeights
from tl_attribution.errors import NotFoundError, UnsupportedModelError
from tl_attribution.hosts.frozen_layers import FrozenAttention, FrozenNorm
from tl_attribution.hosts.protocols import EditMlps, MlpPairs, ReplaceMlp
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.hosts.snapshot import Block, Snapshot
from tl_attribution.plugins.transformer_lens import chat, hook_names, tokens
from tl_attribution.plugins.transformer_lens.capture import capture, check_finite, dtype_and_device
from tl_attribution.plugins.transformer_lens.editing import EditedPass
from tl_attribution.shapes import Streams, TokenIds

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest allowed difference between the frozen model and the host, by the host's dtype."""
TOLERANCE_HALF = 5e-2
"""The same for half precisions."""


class NormWeights(NamedTuple):
    """A norm of the model: its hooks' prefix, its weights, and whether it centers.
    ``hooked_after_weight``: its hook_normalized comes after weight and bias."""

    hooks: str
    centered: bool
    weight: Tensor | None
    bias: Tensor | None
    hooked_after_weight: bool = False


class AttentionWeights(NamedTuple):
    """Value weights, one entry per key/value head, and output weights, one per query head."""

    W_V: Tensor
    b_V: Tensor | None
    W_O: Tensor
    b_O: Tensor | None


class TransformerLensHost(abc.ABC):
    """A TransformerLens model as :class:`~tl_attribution.hosts.protocols.Host`."""

    mlp_input_hook = hook_names.MLP_INPUT
    mlp_output_hook = hook_names.MLP_OUTPUT

    def __init__(self, model: Any) -> None:
        self.model, cfg = model, model.cfg
        self.name: str = tokens.model_name(model)
        self.n_layers, self.d_model = int(cfg.n_layers), int(cfg.d_model)
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)
        self.bos_token_id, self.eos_token_id, self.unk_token_id = tokens.special_ids(model)
        self.parallel = bool(getattr(cfg, "parallel_attn_mlp", False))
        cap = getattr(cfg, "output_logits_soft_cap", None)
        self.soft_cap = float(cap) if cap is not None and cap > 0 else None
        self.dtype, self.device = dtype_and_device(self.name, model)
        self.compute_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32

    @abc.abstractmethod
    def attention(self, layer: int) -> AttentionWeights:
        """Weights of one block's attention."""

    @abc.abstractmethod
    def norm(self, hooks: str, module: nn.Module) -> NormWeights:
        """A norm's weights; ``hooks`` is its hooks' prefix."""

    @abc.abstractmethod
    def new_cache(self, rows: int) -> Any:
        """An empty cache of keys and values."""

    @abc.abstractmethod
    def cache_options(self, cache: Any, token_ids: Tensor) -> dict[str, Any]:
        """Options of a forward pass that continues from a cache."""

    @abc.abstractmethod
    def replace_before_norm(
        self, layer: int, hook: Callable[..., Tensor]
    ) -> tuple[list[tuple[str, Callable[..., Tensor]]], Any]:
        """Hooks that replace an MLP's output before its post-norm: named hooks, and the handle of a
        module hook to remove, or None."""

    # Tokens

    def tokenize(self, text: str, *, with_bos: bool) -> list[int]:
        """Tokenize a text of any length."""
        return tokens.tokenize(self.model, text, with_bos)

    def tokenize_all(self, texts: Sequence[str], *, with_bos: bool) -> list[list[int]]:
        """Tokenize many texts of any length."""
        return tokens.tokenize_all(self.model, texts, with_bos)

    def tokenizer_digest(self) -> str:
        """A hash of everything that the tokenizer's ids depend on."""
        return tokens.digest(self.model)

    def chat_token_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation by the tokenizer's chat template."""
        return chat.chat_token_ids(self.model, messages)

    def chat_opening(self, role: str) -> list[int]:
        """What the chat template puts before the text of a first message of this role."""
        return chat.chat_opening(self.model, role)

    def text(self, token_ids: list[int]) -> str:
        """The text of some tokens, special ones included."""
        return tokens.text(self.model, token_ids)

    def token_strings(self, token_ids: list[int]) -> tuple[str, ...]:
        """Each token as text, its leading space kept; without a tokenizer, its number."""
        return tokens.strings(self.model, token_ids)

    # Sites

    def read_site(self, hook: str) -> ReadSite:
        """The site of a read hook."""
        if self.parallel and hook == "hook_resid_mid":
            raise NotFoundError(
                f"{self.name} runs attention and MLP in parallel and has no hook_resid_mid; its "
                "features read at 'hook_resid_pre' or 'ln2.hook_normalized'"
            )
        return hook_names.read_site(hook)

    def write_site(self, hook: str) -> WriteSite:
        """The site of a write hook."""
        return hook_names.write_site(hook)

    # Weights

    def _norm(self, layer: int | None, name: str) -> NormWeights:
        owner = self.model if layer is None else self.model.blocks[layer]
        hooks = name if layer is None else hook_names.block(layer, name)
        return self.norm(hooks, getattr(owner, name))

    def _has(self, layer: int, name: str) -> bool:
        return getattr(self.model.blocks[layer], name, None) is not None

    def _mlp_norm_name(self, layer: int) -> str:
        return "ln1" if self.parallel and not self._has(layer, "ln2") else "ln2"

    def post_norm_name(self, layer: int, name: str) -> str | None:
        """The name of a post-norm if the block has it, else None."""
        return name if self._has(layer, name) else None

    def _check_block(self, layer: int) -> None:
        parts = ("ln1", "attn", "mlp", self._mlp_norm_name(layer))
        lacking = [part for part in parts if not self._has(layer, part)]
        if lacking:
            raise UnsupportedModelError(
                f"{self.name}: block {layer} has no {', '.join(lacking)}; this adapter traces "
                "decoder blocks with a norm, attention, a norm and an MLP"
            )
        if getattr(self.model, "ln_final", None) is None:
            raise UnsupportedModelError(f"{self.name} has no ln_final, which this adapter reads")

    def mlp(self, layer: int) -> MlpWeights:
        """Weights of one layer's MLP. Raises UnsupportedModelError unless it is plain or gated."""
        self._check_block(layer)
        mlp = self.model.blocks[layer].mlp

        def part(name: str) -> Tensor | None:
            weight = getattr(mlp, name, None)
            return weight.detach() if isinstance(weight, Tensor) else None

        W_in, W_out = part("W_in"), part("W_out")
        if W_in is None or W_out is None:
            raise UnsupportedModelError(
                f"{self.name}: the MLP of block {layer} is a {type(mlp).__name__}, not a plain or "
                "gated MLP, so its neurons cannot be used; use a trained dictionary"
            )
        rest = {name: part(name) for name in ("b_in", "b_out", "W_gate", "b_gate")}
        return MlpWeights(W_in, W_out, str(self.model.cfg.act_fn), **rest)

    # Runs

    def _run(self, token_ids: TokenIds, hooks: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        names = set(hooks)
        tokens = token_ids[None].to(self.device)
        with torch.no_grad():
            logits, cache = self.model.run_with_cache(
                tokens, names_filter=lambda name: name in names, return_type="logits"
            )
        values = {
            name: cache[name][0].detach().to(self.compute_dtype) for name in names & set(cache)
        }
        if lacking := sorted(names - set(values)):
            raise UnsupportedModelError(
                f"{self.name} lacks the hooks {', '.join(lacking[:4])}, which this adapter reads"
            )
        return logits[0].detach().to(self.compute_dtype), values

    def read(self, token_ids: TokenIds, site: ReadSite) -> Streams:
        """What features read at every layer, in one forward pass."""
        hooks = [self.read_hook(layer, site) for layer in range(self.n_layers)]
        _, values = self._run(token_ids, hooks)
        return torch.stack(
            [self.read_from_hook(layer, values[hook], site) for layer, hook in enumerate(hooks)]
        )

    def read_mlps(
        self, token_ids: Int[Tensor, "row position"], read: ReadSite, write: WriteSite
    ) -> MlpPairs:
        """What features of every layer read and should write, in one forward pass."""
        layers = range(self.n_layers)
        for layer in layers:
            self._check_block(layer)
        reads = [self.read_hook(layer, read) for layer in layers]
        writes = [self._write_hooks(layer, write) for layer in layers]
        hooks = {*reads, *(hook for parts in writes for hook in parts)}
        values = capture(self.model, token_ids, hooks)
        flat = {hook: t.to(self.compute_dtype).flatten(0, 1) for hook, t in values.items()}
        inputs = [self.read_from_hook(layer, flat[reads[layer]], read) for layer in layers]
        outputs = [
            math.prod((flat[hook] for hook in parts[1:]), start=flat[parts[0]]) for parts in writes
        ]
        shape = tuple(token_ids.shape)
        return MlpPairs(*(torch.stack(x, 1).unflatten(0, shape) for x in (inputs, outputs)))

    def plain_hooks(self, read: ReadSite, write: WriteSite) -> tuple[list[str], list[str]] | None:
        """Each layer's hooks that hold exactly what features read and write, or None if some value
        has to be computed from a hook's."""
        layers = range(self.n_layers)
        for layer in layers:
            self._check_block(layer)
        reads = [self.read_hook(layer, read) for layer in layers]
        writes = [self._write_hooks(layer, write) for layer in layers]
        if any(len(hooks) > 1 for hooks in writes) or not all(
            self._hooked_as_is(layer, read) for layer in layers
        ):
            return None
        return reads, [hooks[0] for hooks in writes]

    def _hooked_as_is(self, layer: int, site: ReadSite) -> bool:
        if site.norm == "none":
            return True
        norm = self._norm(layer, self._mlp_norm_name(layer))
        weighted = norm.weight is not None or norm.bias is not None
        return not weighted or (site.norm == "affine") == norm.hooked_after_weight

    def _write_hooks(self, layer: int, site: WriteSite) -> tuple[str, ...]:
        """Hooks whose product is the MLP's output at a write site."""
        if not site.before_norm or not self.post_norm_name(layer, "ln2_post"):
            return (hook_names.block(layer, "hook_mlp_out"),)
        parts = ("hook_normalized", "hook_scale")
        return tuple(hook_names.block(layer, f"ln2_post.{part}") for part in parts)

    def read_hook(self, layer: int, site: ReadSite) -> str:
        """The hook at a read site, or the one that its value is computed from."""
        if site.norm != "none":
            return hook_names.block(layer, f"{self._mlp_norm_name(layer)}.hook_normalized")
        early = site.place == "resid_pre" or self.parallel
        return hook_names.block(layer, "hook_resid_pre" if early else "hook_resid_mid")

    def read_from_hook(self, layer: int, hooked: Tensor, site: ReadSite) -> Tensor:
        """Compute what features read at a site from the value of :meth:`read_hook`'s hook."""
        if site.norm == "none":
            return hooked
        norm = self._norm(layer, self._mlp_norm_name(layer))
        normalized = self._normalized(norm, hooked)
        if site.norm == "normalized":
            return normalized
        return self._frozen(norm, hooked.new_ones(len(hooked), 1)).weighted(normalized)

    def _normalized(self, norm: NormWeights, hooked: Tensor) -> Tensor:
        """The value of a norm's hook_normalized, before weight and bias in every version."""
        if not norm.hooked_after_weight or norm.weight is None:
            return hooked
        bias = 0.0 if norm.bias is None else norm.bias.detach().to(hooked)
        return (hooked - bias) / norm.weight.detach().to(hooked)

    def _frozen(self, norm: NormWeights, scale: Tensor) -> FrozenNorm:
        def converted(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(self.compute_dtype)

        return FrozenNorm(scale, norm.centered, converted(norm.weight), converted(norm.bias))

    def run_replacing_mlps(
        self, token_ids: TokenIds, read: ReadSite, write: WriteSite, replace: ReplaceMlp
    ) -> Float[Tensor, "position vocab"]:
        """Logits of a run with every MLP's output replaced."""
        return self.run_edited(
            token_ids[None], read, write, lambda i, x, out: replace(i, x[0], out[0])[None]
        )[0]

    def run_edited(
        self,
        token_ids: Int[Tensor, "row position"],
        read: ReadSite,
        write: WriteSite,
        edit: EditMlps,
        *,
        patterns: Sequence[Float[Tensor, "head position position"]] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "row position vocab"]:
        """Logits of several rows with every MLP's output edited and, with ``patterns``, every
        attention pattern replaced. Raises UnsupportedModelError if a hook was not reached."""
        run = EditedPass(self, read, write, edit, patterns)
        options = {} if cache is None else self.cache_options(cache, token_ids)
        return run.logits(token_ids, options).to(self.compute_dtype)

    # Snapshot

    def snapshot(self, token_ids: TokenIds) -> Snapshot:
        """Run the model once and check the snapshot. Raises ProofError or UnsupportedModelError."""
        for layer in range(self.n_layers):
            self._check_block(layer)
        norms = self._norms()
        logits, values = self._run(token_ids, self._hooks(norms.values()))
        check_finite(self.name, logits, values)
        positions = values.get("hook_pos_embed")
        first = values[hook_names.block(0, "hook_resid_pre")]
        snapshot = Snapshot(
            token_ids=token_ids.cpu(),
            token_embedding=first if positions is None else first - positions,
            position_embedding=positions,
            blocks=tuple(self._block(layer, norms, values) for layer in range(self.n_layers)),
            final_norm=self._scaled(norms["ln_final"], values),
            final_resid=values[hook_names.block(self.n_layers - 1, "hook_resid_post")],
            W_U=self.model.W_U.detach().to(self.compute_dtype),
            b_U=self._unembedding_bias(),
            soft_cap=self.soft_cap,
            logits=logits,
        )
        snapshot.prove(TOLERANCE.get(self.dtype, TOLERANCE_HALF))
        return snapshot

    def _unembedding_bias(self) -> Tensor | None:
        bias = getattr(self.model, "b_U", None)
        return None if bias is None else bias.detach().to(self.compute_dtype)

    def _norms(self) -> dict[str, NormWeights]:
        """Every norm of the model by its hooks' prefix."""
        norms = [self._norm(None, "ln_final")]
        for layer in range(self.n_layers):
            present = [n for n in ("ln1", "ln2", "ln1_post", "ln2_post") if self._has(layer, n)]
            norms += [self._norm(layer, name) for name in present]
        return {norm.hooks: norm for norm in norms}

    def _hooks(self, norms: Iterable[NormWeights]) -> list[str]:
        hooks = [f"{norm.hooks}.hook_scale" for norm in norms]
        for layer in range(self.n_layers):
            parts = ["hook_resid_pre", "attn.hook_pattern", "hook_mlp_out"]
            parts.append(f"{self._mlp_norm_name(layer)}.hook_normalized")
            if self.post_norm_name(layer, "ln2_post"):
                parts.append("ln2_post.hook_normalized")
            hooks += [hook_names.block(layer, part) for part in parts]
        hooks.append(hook_names.block(self.n_layers - 1, "hook_resid_post"))
        if getattr(self.model.cfg, "positional_embedding_type", None) == "standard":
            hooks.append("hook_pos_embed")
        return hooks

    def _scaled(self, norm: NormWeights, values: dict[str, Tensor]) -> FrozenNorm:
        return self._frozen(norm, values[f"{norm.hooks}.hook_scale"])

    def _block(self, layer: int, norms: dict[str, NormWeights], values: dict[str, Tensor]) -> Block:
        def hooked(name: str) -> Tensor:
            return values[hook_names.block(layer, name)]

        def norm(name: str) -> FrozenNorm:
            return self._scaled(norms[hook_names.block(layer, name)], values)

        def converted(weight: Tensor) -> Tensor:
            return weight.detach().to(self.compute_dtype)

        mlp_norm = self._mlp_norm_name(layer)
        attention_post = self.post_norm_name(layer, "ln1_post")
        mlp_post = self.post_norm_name(layer, "ln2_post")
        raw = None
        if mlp_post:
            raw = hooked("ln2_post.hook_normalized") * hooked("ln2_post.hook_scale")
        weights = self.attention(layer)
        return Block(
            attention=FrozenAttention(
                pattern=hooked("attn.hook_pattern"),
                W_V=converted(weights.W_V),
                b_V=None if weights.b_V is None else converted(weights.b_V),
                W_O=converted(weights.W_O),
                b_O=None if weights.b_O is None else converted(weights.b_O),
                norm=norm("ln1"),
                post_norm=norm(attention_post) if attention_post else None,
            ),
            mlp_norm=norm(mlp_norm),
            resid_pre=hooked("hook_resid_pre"),
            mlp_normalized=self._normalized(
                norms[hook_names.block(layer, mlp_norm)], hooked(f"{mlp_norm}.hook_normalized")
            ),
            mlp_out=hooked("hook_mlp_out"),
            parallel=self.parallel,
            mlp_raw=raw,
            mlp_post_norm=norm(mlp_post) if mlp_post else None,
        )
