"""What a dictionary is: the features that stand in for a model's MLPs, whatever their kind."""

from __future__ import annotations

import abc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.errors import MismatchError
from tl_attribution.shapes import Activations, Stream, Streams

if TYPE_CHECKING:
    from tl_attribution.dictionaries.remote import Published


@runtime_checkable
class Evaluated(Protocol):
    """An evaluation, as far as it matters here."""

    def to_json(self, path: str | Path) -> None:
        """Write it to a file."""
        ...


class Encoded(NamedTuple):
    """One layer on one prompt. ``preactivation`` is affine in what a feature reads; where a feature
    is active its ``activation`` is the same number, except for ungated MLP neurons."""

    activation: Float[Tensor, "position feature"]
    preactivation: Float[Tensor, "position feature"]


class Reads(NamedTuple):
    """The affine reading of some features: pre-activation = vector · x + bias."""

    vectors: Float[Tensor, "active d_model"]
    bias: Float[Tensor, " active"]


class Dictionary(abc.ABC):
    """Features that read at ``feature_input_hook`` and together reconstruct what is written at
    ``feature_output_hook``. Hook names are TransformerLens's, without the block."""

    kind: ClassVar[str]
    """``cross-layer transcoder``, ``transcoders`` or ``neurons``."""

    n_layers: int
    d_model: int
    n_features: int
    """Features a layer."""
    feature_input_hook: str
    feature_output_hook: str
    model_name: str | None
    """Model it was trained on, where known."""

    @abc.abstractmethod
    def encode_layer(self, layer: int, x: Stream) -> Encoded:
        """Activations and pre-activations of one layer's features."""

    @abc.abstractmethod
    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> Reads:
        """How the active features (position, index) read ``x``, with their activation pattern (a
        gate, where there is one) frozen as it is at ``x``."""

    @abc.abstractmethod
    def written_layers(self, layer: int) -> range:
        """Layers whose MLP output the features of ``layer`` write to."""

    @abc.abstractmethod
    def writes(
        self, layer: int, index: Int[Tensor, " active"], target: int
    ) -> Float[Tensor, "active d_model"]:
        """Decoder vectors of features of ``layer`` into the MLP output of layer ``target``."""

    def written_activation(
        self,
        layer: int,
        index: Int[Tensor, " active"],
        target: int,
        activation: Float[Tensor, "*batch active"],
    ) -> Float[Tensor, "*batch active"]:
        """What :meth:`writes` is multiplied by in the write to ``target``: the activation, and in
        some formats an offset beside it where the feature is active."""
        del layer, index, target
        return activation

    @abc.abstractmethod
    def decoder_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """What is written at a layer whatever the features do."""

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """Linear skip of a layer, [out, in], or None."""
        del layer
        return None

    @abc.abstractmethod
    def save(
        self, path: str | Path, *, format: str = "tl-attribution", overwrite: bool = False
    ) -> None:
        """Write the dictionary to a folder that ``load_dictionary`` reads, in a format that the
        kind can be written in. Files of a dictionary that was saved there are replaced; with
        ``overwrite`` the folder may hold something else, of which files of the same names are."""

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        licence: str | None = None,
        evaluation: Evaluated | None = None,
    ) -> Published:
        """Publish to the repository ``repo``, ``org/name``, in one commit, with a model card and
        an evaluation (:func:`tl_attribution.evaluate`'s result), if one is given.

        ``revision`` is the branch; ``tag`` names the commit. Its files are first written to the
        system's temporary folder. Raises InputError for a name that is none or a dictionary that
        is not saved, HubError for what goes wrong at the Hub; nothing is published then.
        """
        from tl_attribution.dictionaries import publishing

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "dictionary"
            self.save(folder)
            if evaluation is not None:
                evaluation.to_json(folder / publishing.EVALUATION)
            return publishing.publish(
                folder, repo, private=private, revision=revision, tag=tag, licence=licence
            )

    def encode(self, x: Streams) -> Activations:
        """Activations [layer, position, feature] from ``x`` at the read hook of every layer.

        Raises MismatchError if ``x`` has another number of layers or width.
        """
        self._check(x)
        return torch.stack([self.encode_layer(i, x[i]).activation for i in range(self.n_layers)])

    def decode(self, acts: Activations, x: Streams | None = None) -> Streams:
        """Reconstruction [layer, position, d_model] of what is written at the write hook.

        ``x`` is needed by dictionaries with a linear skip. Raises MismatchError without it.
        """
        out = acts.new_zeros(self.n_layers, acts.shape[1], self.d_model)
        every = torch.arange(self.n_features, device=acts.device)
        for source in range(self.n_layers):
            for target in self.written_layers(source):
                active = self.written_activation(source, every, target, acts[source])
                out[target] += active @ self.writes(source, every, target).to(acts)
        for layer in range(self.n_layers):
            out[layer] += self.affine(layer, None if x is None else x[layer], out[layer])
        return out

    def affine(self, layer: int, x: Stream | None, like: Stream) -> Stream:
        """Decoder bias plus linear skip of one layer: what is written besides the features."""
        out = torch.zeros_like(like)
        if (bias := self.decoder_bias(layer)) is not None:
            out = out + bias.to(out)
        if (skip := self.skip(layer)) is not None:
            if x is None:
                raise MismatchError(
                    "this dictionary has a linear skip: give decode the input x too"
                )
            out = out + x.to(out) @ skip.T.to(out)
        return out

    def _check(self, x: Streams) -> None:
        if x.shape[0] != self.n_layers or x.shape[2] != self.d_model:
            raise MismatchError(
                f"x is {tuple(x.shape)}; this dictionary reads [layer={self.n_layers}, position, "
                f"d_model={self.d_model}]"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.n_layers} layers × {self.n_features} features, d_model "
            f"{self.d_model}, {self.feature_input_hook} → {self.feature_output_hook})"
        )
