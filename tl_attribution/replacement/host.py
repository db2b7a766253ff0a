"""What a model must offer to be traced, and how the right adapter is found for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Union, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries.neurons import MlpWeights
from tl_attribution.errors import UnsupportedModelError
from tl_attribution.replacement.sites import ReadSite, WriteSite
from tl_attribution.replacement.snapshot import Snapshot
from tl_attribution.shapes import Stream, StreamRows, Streams, TokenIds

ReplaceMlp = Callable[[int, Stream, Stream], Stream]
"""(layer, what is read, what the MLP wrote) → what is written instead, at the write site."""

EditMlps = Callable[[int, StreamRows, StreamRows], StreamRows]
"""The same of several rows."""


class MlpPairs(NamedTuple):
    """What every MLP's features read, and what they should write, of several rows."""

    inputs: Float[Tensor, "row position layer d_model"]
    outputs: Float[Tensor, "row position layer d_model"]


@runtime_checkable
class Host(Protocol):
    """A model seen through an adapter. It is only ever read; hooks are removed after each call."""

    name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    bos_token_id: int | None
    mlp_input_hook: str
    mlp_output_hook: str

    def tokenize(self, text: str, *, with_bos: bool) -> list[int]:
        """Token ids; with the BOS token in front where the model wants one, or without."""
        ...

    def tokenize_all(self, texts: Sequence[str], *, with_bos: bool) -> list[list[int]]:
        """Token ids of many texts, fast, however long they are. An empty text gives the BOS token
        alone where the model wants one, or nothing."""
        ...

    def tokenizer_digest(self) -> str:
        """What is the same for two tokenizers only if they give the same ids."""
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
        """One forward pass, proven. Raises ProofError or UnsupportedModelError."""
        ...

    def read(self, token_ids: TokenIds, site: ReadSite) -> Streams:
        """What features read at ``site`` of every layer, without the cost of a snapshot."""
        ...

    def read_mlps(
        self, token_ids: Int[Tensor, "row position"], read: ReadSite, write: WriteSite
    ) -> MlpPairs:
        """Both sites of every layer, of several rows in one forward pass. Rows may be padded on
        the right: attention is causal, so what is before the padding does not see it."""
        ...

    def mlp(self, layer: int) -> MlpWeights:
        """One layer's MLP weights."""
        ...

    def run_replacing_mlps(
        self, token_ids: TokenIds, read: ReadSite, write: WriteSite, replace: ReplaceMlp
    ) -> Float[Tensor, "position vocab"]:
        """Logits of a run with every MLP's output replaced; attention and norms run freely."""
        ...

    def new_cache(self, rows: int) -> Any:
        """An empty store of keys and values for :meth:`run_edited`, of so many rows."""
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
        (one a layer, as a snapshot holds them) takes the place of every row's attention patterns.
        With a ``cache``, the tokens follow those of the runs that it went through before."""
        ...


LoadModel = Callable[
    [str, Union[Path, None], Union[str, None]],  # noqa: UP007  # evaluated on Python 3.10
    Any,
]
"""(name, folder in Hugging Face form, or None to find the name; device, or None for the host's
choice) → a model that has an adapter."""

_LOADERS: list[LoadModel] = []
_ADAPTERS: list[tuple[type, Callable[[Any], Host]]] = []


def register_host(model_type: type, adapter: Callable[[Any], Host]) -> None:
    """Serve ``model_type`` and its subclasses with ``adapter``. Registering again replaces."""
    _ADAPTERS[:] = [entry for entry in _ADAPTERS if entry[0] is not model_type]
    _ADAPTERS.append((model_type, adapter))


def register_loader(load: LoadModel) -> None:
    """Offer to load models by name. Registering again replaces."""
    _LOADERS[:] = [load]


def loader() -> LoadModel | None:
    """How to load a model by name, if a plugin offers it."""
    return _LOADERS[0] if _LOADERS else None


def host_for(model: Any) -> Host:
    """The adapter for a model, that of the nearest class it inherits from. Raises
    UnsupportedModelError if no plugin serves its type."""
    adapters = dict(_ADAPTERS)
    for model_type in type(model).__mro__:
        if model_type in adapters:
            return adapters[model_type](model)
    served = ", ".join(sorted(t.__name__ for t, _ in _ADAPTERS)) or "none (import transformer_lens)"
    raise UnsupportedModelError(
        f"a {type(model).__module__}.{type(model).__qualname__} cannot be traced; models served by "
        f"the installed plugins: {served}. Load a Hugging Face model with "
        "TransformerBridge.boot_transformers(name)"
    )
