"""What a model must offer to be traced, to be edited, and to train a dictionary on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.neurons import MlpWeights
from tl_attribution.hosts.sites import ReadSite, WriteSite
from tl_attribution.hosts.snapshot import Snapshot
from tl_attribution.shapes import Stream, StreamRows, Streams, TokenIds

ReplaceMlp = Callable[[int, Stream, Stream], Stream]
"""(layer, what features read, MLP output) → the output that replaces it, at the write site."""

EditMlps = Callable[[int, StreamRows, StreamRows], StreamRows]
"""As :data:`ReplaceMlp`, for several rows at once."""


class MlpPairs(NamedTuple):
    """Training pairs of several rows: what features read at every layer, and what they should
    write."""

    inputs: Float[Tensor, "row position layer d_model"]
    outputs: Float[Tensor, "row position layer d_model"]


@runtime_checkable
class Traceable(Protocol):
    """A model seen through an adapter, as attribution needs it. The model is only read; hooks are
    removed after each call."""

    name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    device: torch.device
    compute_dtype: torch.dtype
    """The dtype of what is read from the model: fp32, or fp64 where the weights are."""
    mlp_input_hook: str
    """The read hook of the model's own neurons."""
    mlp_output_hook: str
    """The write hook of the model's own neurons."""

    def tokenize(self, text: str, *, with_bos: bool) -> list[int]:
        """Token ids of a text; ``with_bos`` puts the BOS token in front where the model expects one
        and the text does not begin with it."""
        ...

    def chat_token_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation in the model's chat template, up to where the assistant's
        text begins, or goes on if the last message is the assistant's. Raises InputError without a
        template and for messages that it refuses."""
        ...

    def chat_opening(self, role: str) -> list[int]:
        """Token ids that the chat template puts before the text of a first message of this role,
        whatever that text is; empty without a template."""
        ...

    def text(self, token_ids: list[int]) -> str:
        """The text of some tokens, special ones included."""
        ...

    def token_strings(self, token_ids: list[int]) -> tuple[str, ...]:
        """Each token as text, its leading space kept."""
        ...

    def read_site(self, hook: str) -> ReadSite:
        """The site of a read hook. Raises NotFoundError for an unknown one."""
        ...

    def write_site(self, hook: str) -> WriteSite:
        """The site of a write hook. Raises NotFoundError for an unknown one."""
        ...

    def snapshot(self, token_ids: TokenIds) -> Snapshot:
        """Run the model once and check the snapshot with :meth:`Snapshot.prove`. Raises ProofError
        or UnsupportedModelError."""
        ...

    def read(self, token_ids: TokenIds, site: ReadSite) -> Streams:
        """What features read at ``site`` of every layer, without the cost of a snapshot."""
        ...

    def mlp(self, layer: int) -> MlpWeights:
        """Weights of one layer's MLP. Raises UnsupportedModelError unless it is plain or gated."""
        ...


@runtime_checkable
class Editable(Traceable, Protocol):
    """A model whose MLP outputs can be changed during a forward pass: what interventions,
    generation and the replacement model need."""

    def run_replacing_mlps(
        self, token_ids: TokenIds, read: ReadSite, write: WriteSite, replace: ReplaceMlp
    ) -> Float[Tensor, "position vocab"]:
        """Logits of a run with every MLP's output replaced; attention and norms run freely."""
        ...

    def new_cache(self, rows: int) -> Any:
        """An empty cache of keys and values for ``rows`` rows of :meth:`run_edited`."""
        ...

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
        """Logits of several rows in one forward pass, with every MLP's output edited. ``patterns``
        (one per layer, as in a snapshot) replaces every row's attention patterns. With a ``cache``,
        the tokens follow those of the earlier runs with it."""
        ...


@runtime_checkable
class Trainable(Traceable, Protocol):
    """A model that dictionaries are trained and evaluated on: it tokenizes datasets and reads
    batches."""

    def tokenize_all(self, texts: Sequence[str], *, with_bos: bool) -> list[list[int]]:
        """Token ids of many texts of any length. An empty text gives the BOS token alone where the
        model expects one, else nothing."""
        ...

    def tokenizer_digest(self) -> str:
        """A hash that two tokenizers share only if they give the same ids."""
        ...

    def read_mlps(
        self, token_ids: Int[Tensor, "row position"], read: ReadSite, write: WriteSite
    ) -> MlpPairs:
        """Both sites of every layer, for several rows in one forward pass. Rows may be padded on
        the right: attention is causal, so padding does not affect what precedes it."""
        ...


@runtime_checkable
class Host(Editable, Trainable, Protocol):
    """A model that every verb of this package works on."""
