"""What both TransformerLens models share: one forward pass with hooks that only read."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_attribution.dictionaries.neurons import MlpWeights
from tl_attribution.errors import NotFoundError, UnsupportedModelError
from tl_attribution.plugins.transformer_lens import names, tokens
from tl_attribution.plugins.transformer_lens.editing import Editing
from tl_attribution.plugins.transformer_lens.looking import check_finite, look, only_place
from tl_attribution.replacement.frozen import FrozenAttention, FrozenNorm
from tl_attribution.replacement.host import EditMlps, MlpPairs, ReplaceMlp
from tl_attribution.replacement.sites import ReadSite, WriteSite
from tl_attribution.replacement.snapshot import Block, Snapshot
from tl_attribution.shapes import Streams, TokenIds

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far the frozen model may be from the host, by the host's dtype; half precisions get more."""
TOLERANCE_HALF = 5e-2


class NormWeights(NamedTuple):
    """A norm as the host holds it: its hooks' prefix, weights, and whether it centres.
    ``hooked_late``: its hook_normalized comes after weight and bias."""

    hooks: str
    centred: bool
    weight: Tensor | None
    bias: Tensor | None
    hooked_late: bool = False


class AttentionWeights(NamedTuple):
    """Value and output weights, one entry a key/value head and a query head."""

    W_V: Tensor
    b_V: Tensor | None
    W_O: Tensor
    b_O: Tensor | None


class TransformerLensHost(abc.ABC):
    """A TransformerLens model as :class:`~tl_attribution.replacement.host.Host`."""

    mlp_input_hook = names.MLP_INPUT
    mlp_output_hook = names.MLP_OUTPUT

    def __init__(self, model: Any) -> None:
        self.model, cfg = model, model.cfg
        self.name: str = cfg.model_name or "unnamed model"
        self.n_layers, self.d_model = int(cfg.n_layers), int(cfg.d_model)
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)
        tokenizer = model.tokenizer
        self.bos_token_id = None if tokenizer is None else tokenizer.bos_token_id
        self.parallel = bool(getattr(cfg, "parallel_attn_mlp", False))
        cap = getattr(cfg, "output_logits_soft_cap", None)
        self.soft_cap = float(cap) if cap is not None and cap > 0 else None
        self.dtype, self.device = only_place(self.name, model)
        self.compute_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32

    @abc.abstractmethod
    def attention(self, layer: int) -> AttentionWeights:
        """Weights of one block's attention."""

    @abc.abstractmethod
    def norm(self, hooks: str, module: nn.Module) -> NormWeights:
        """A norm's weights; ``hooks`` is its hooks' prefix."""

    @abc.abstractmethod
    def new_cache(self, rows: int) -> Any:
        """An empty store of keys and values."""

    @abc.abstractmethod
    def caching(self, cache: Any, token_ids: Tensor) -> dict[str, Any]:
        """What the forward pass is given, besides tokens, to go on from a cache."""

    @abc.abstractmethod
    def replace_before_norm(
        self, layer: int, hook: Callable[..., Tensor]
    ) -> tuple[list[tuple[str, Callable[..., Tensor]]], Any]:
        """How to replace an MLP's output before its post-norm: named hooks, and a handle with
        ``remove`` for what is no named hook (or None)."""

    # Tokens

    def tokenize(self, text: str, *, with_bos: bool) -> list[int]:
        """Token ids of a text, cut at the context's length."""
        return tokens.tokenize(self.model, text, with_bos)

    def tokenize_all(self, texts: Sequence[str], *, with_bos: bool) -> list[list[int]]:
        """Token ids of many texts, of any length."""
        return tokens.tokenize_all(self.model, texts, with_bos)

    def tokenizer_digest(self) -> str:
        """A hash of all that the tokenizer's ids depend on."""
        return tokens.digest(self.model)

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
        return names.read_site(hook)

    def write_site(self, hook: str) -> WriteSite:
        """The site of a write hook."""
        return names.write_site(hook)

    # Weights

    def _norm(self, layer: int | None, name: str) -> NormWeights:
        owner = self.model if layer is None else self.model.blocks[layer]
        hooks = name if layer is None else names.block(layer, name)
        return self.norm(hooks, getattr(owner, name))

    def _has(self, layer: int, name: str) -> bool:
        return getattr(self.model.blocks[layer], name, None) is not None

    def _mlp_norm_name(self, layer: int) -> str:
        return "ln1" if self.parallel and not self._has(layer, "ln2") else "ln2"

    def post_norm_name(self, layer: int, name: str) -> str | None:
        """The name, if the block has a post-norm of this name."""
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
        """One layer's MLP weights. Raises UnsupportedModelError unless it is plain or gated."""
        self._check_block(layer)
        mlp = self.model.blocks[layer].mlp

        def part(name: str) -> Tensor | None:
            found = getattr(mlp, name, None)
            return found.detach() if isinstance(found, Tensor) else None

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
        wanted = set(hooks)
        tokens = token_ids[None].to(self.device)
        with torch.no_grad():
            logits, cache = self.model.run_with_cache(
                tokens, names_filter=lambda name: name in wanted, return_type="logits"
            )
        found = {
            name: cache[name][0].detach().to(self.compute_dtype) for name in wanted & set(cache)
        }
        if lacking := sorted(wanted - set(found)):
            raise UnsupportedModelError(
                f"{self.name} lacks the hooks {', '.join(lacking[:4])}, which this adapter reads"
            )
        return logits[0].detach().to(self.compute_dtype), found

    def read(self, token_ids: TokenIds, site: ReadSite) -> Streams:
        """What features read at every layer, in one forward pass."""
        hooks = [self.read_hook(layer, site) for layer in range(self.n_layers)]
        _, found = self._run(token_ids, hooks)
        return torch.stack(
            [self.at_site(layer, found[hook], site) for layer, hook in enumerate(hooks)]
        )

    def read_mlps(
        self, token_ids: Int[Tensor, "row position"], read: ReadSite, write: WriteSite
    ) -> MlpPairs:
        """What every MLP's features read and should write, in one forward pass."""
        layers = range(self.n_layers)
        for layer in layers:
            self._check_block(layer)
        reads = [self.read_hook(layer, read) for layer in layers]
        writes = [self._write_hooks(layer, write) for layer in layers]
        found = look(self.model, token_ids, {*reads, *(hook for pair in writes for hook in pair)})
        flat = {hook: t.to(self.compute_dtype).flatten(0, 1) for hook, t in found.items()}
        inputs = [self.at_site(layer, flat[reads[layer]], read) for layer in layers]
        outputs = [
            math.prod((flat[hook] for hook in hooks[1:]), start=flat[hooks[0]]) for hooks in writes
        ]
        shape = tuple(token_ids.shape)
        return MlpPairs(*(torch.stack(x, 1).unflatten(0, shape) for x in (inputs, outputs)))

    def plain_hooks(self, read: ReadSite, write: WriteSite) -> tuple[list[str], list[str]] | None:
        """Each layer's hooks that hold just what is read and written, or None if some value has to
        be computed from what hooks hold."""
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
        return not weighted or (site.norm == "affine") == norm.hooked_late

    def _write_hooks(self, layer: int, site: WriteSite) -> tuple[str, ...]:
        """Hooks whose product is what the MLP writes at a site."""
        if not site.before_norm or not self.post_norm_name(layer, "ln2_post"):
            return (names.block(layer, "hook_mlp_out"),)
        parts = ("hook_normalized", "hook_scale")
        return tuple(names.block(layer, f"ln2_post.{part}") for part in parts)

    def read_hook(self, layer: int, site: ReadSite) -> str:
        """The hook that holds what is read at a site, or what it is computed from."""
        if site.norm != "none":
            return names.block(layer, f"{self._mlp_norm_name(layer)}.hook_normalized")
        early = site.place == "resid_pre" or self.parallel
        return names.block(layer, "hook_resid_pre" if early else "hook_resid_mid")

    def at_site(self, layer: int, hooked: Tensor, site: ReadSite) -> Tensor:
        """What is read at a site, from what :meth:`read_hook`'s hook holds."""
        if site.norm == "none":
            return hooked
        norm = self._norm(layer, self._mlp_norm_name(layer))
        normalized = self._normalized(norm, hooked)
        if site.norm == "normalized":
            return normalized
        return self._frozen(norm, hooked.new_ones(len(hooked), 1)).weighted(normalized)

    def _normalized(self, norm: NormWeights, hooked: Tensor) -> Tensor:
        """What a norm's hook_normalized holds, before weight and bias whatever the version."""
        if not norm.hooked_late or norm.weight is None:
            return hooked
        bias = 0.0 if norm.bias is None else norm.bias.detach().to(hooked)
        return (hooked - bias) / norm.weight.detach().to(hooked)

    def _frozen(self, norm: NormWeights, scale: Tensor) -> FrozenNorm:
        def ready(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.detach().to(self.compute_dtype)

        return FrozenNorm(scale, norm.centred, ready(norm.weight), ready(norm.bias))

    def run_replacing_mlps(
        self, token_ids: TokenIds, read: ReadSite, write: WriteSite, replace: ReplaceMlp
    ) -> Float[Tensor, "position vocab"]:
        """Logits of a run with every MLP's output replaced."""

        def of_one_row(layer: int, x: Tensor, out: Tensor) -> Tensor:
            return replace(layer, x[0], out[0])[None]

        return self.run_edited(token_ids[None], read, write, of_one_row)[0]

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
        """Logits of several rows with every MLP's output edited, and the attention patterns given.
        Raises UnsupportedModelError if an edit was never asked for."""
        run = Editing(self, read, write, edit, patterns)
        options = {} if cache is None else self.caching(cache, token_ids)
        return run.logits(token_ids, options).to(self.compute_dtype)

    # Snapshot

    def snapshot(self, token_ids: TokenIds) -> Snapshot:
        """One forward pass with all that is frozen on it; proves itself before it is returned."""
        for layer in range(self.n_layers):
            self._check_block(layer)
        norms = self._norms()
        logits, found = self._run(token_ids, self._hooks(norms.values()))
        check_finite(self.name, logits, found)
        positions = found.get("hook_pos_embed")
        first = found[names.block(0, "hook_resid_pre")]
        snapshot = Snapshot(
            token_ids=token_ids.cpu(),
            token_embedding=first if positions is None else first - positions,
            position_embedding=positions,
            blocks=tuple(self._block(layer, norms, found) for layer in range(self.n_layers)),
            final_norm=self._scaled(norms["ln_final"], found),
            final_resid=found[names.block(self.n_layers - 1, "hook_resid_post")],
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
        found = [self._norm(None, "ln_final")]
        for layer in range(self.n_layers):
            present = [n for n in ("ln1", "ln2", "ln1_post", "ln2_post") if self._has(layer, n)]
            found += [self._norm(layer, name) for name in present]
        return {norm.hooks: norm for norm in found}

    def _hooks(self, norms: Iterable[NormWeights]) -> list[str]:
        wanted = [f"{norm.hooks}.hook_scale" for norm in norms]
        for layer in range(self.n_layers):
            parts = ["hook_resid_pre", "attn.hook_pattern", "hook_mlp_out"]
            parts.append(f"{self._mlp_norm_name(layer)}.hook_normalized")
            if self.post_norm_name(layer, "ln2_post"):
                parts.append("ln2_post.hook_normalized")
            wanted += [names.block(layer, part) for part in parts]
        wanted.append(names.block(self.n_layers - 1, "hook_resid_post"))
        if getattr(self.model.cfg, "positional_embedding_type", None) == "standard":
            wanted.append("hook_pos_embed")
        return wanted

    def _scaled(self, norm: NormWeights, found: dict[str, Tensor]) -> FrozenNorm:
        return self._frozen(norm, found[f"{norm.hooks}.hook_scale"])

    def _block(self, layer: int, norms: dict[str, NormWeights], found: dict[str, Tensor]) -> Block:
        def hooked(name: str) -> Tensor:
            return found[names.block(layer, name)]

        def norm(name: str) -> FrozenNorm:
            return self._scaled(norms[names.block(layer, name)], found)

        def ready(weight: Tensor) -> Tensor:
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
                W_V=ready(weights.W_V),
                b_V=None if weights.b_V is None else ready(weights.b_V),
                W_O=ready(weights.W_O),
                b_O=None if weights.b_O is None else ready(weights.b_O),
                norm=norm("ln1"),
                post_norm=norm(attention_post) if attention_post else None,
            ),
            mlp_norm=norm(mlp_norm),
            resid_pre=hooked("hook_resid_pre"),
            mlp_normalized=self._normalized(
                norms[names.block(layer, mlp_norm)], hooked(f"{mlp_norm}.hook_normalized")
            ),
            mlp_out=hooked("hook_mlp_out"),
            parallel=self.parallel,
            mlp_raw=raw,
            mlp_post_norm=norm(mlp_post) if mlp_post else None,
        )
