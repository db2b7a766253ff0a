"""The interface of dictionaries: features that replace a model's MLPs, of whatever kind."""

from __future__ import annotations

import abc
import tempfile
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.dictionaries import publishing
from tl_attribution.dictionaries.formats.writing import SaveFormat
from tl_attribution.dictionaries.hub import Published
from tl_attribution.dictionaries.weights import Kind
from tl_attribution.errors import MismatchError
from tl_attribution.shapes import Activations, Stream, Streams


@runtime_checkable
class WritesJson(Protocol):
    """An evaluation that can be written to a JSON file."""

    def to_json(self, path: str | Path) -> None:
        """Write it to ``path``."""
        ...


class Encoded(NamedTuple):
    """The features of one layer on one prompt. ``preactivation`` is affine in what a feature reads;
    where a feature is active its ``activation`` is the same number, except for ungated MLP neurons.
    """

    activation: Float[Tensor, "position feature"]
    preactivation: Float[Tensor, "position feature"]


class FeatureReads(NamedTuple):
    """How features read, affinely: pre-activation = vector · x + bias."""

    vectors: Float[Tensor, "active d_model"]
    bias: Float[Tensor, " active"]


class Dictionary(abc.ABC):
    """Features that read at ``feature_input_hook`` and together reconstruct what is written at
    ``feature_output_hook``. Hook names are TransformerLens's, without the block."""

    kind: ClassVar[Kind]

    n_layers: int
    d_model: int
    n_features: int
    """Features per layer."""
    feature_input_hook: str
    feature_output_hook: str
    model_name: str | None
    """The model it was trained on; None if that is unknown."""

    @abc.abstractmethod
    def encode_layer(self, layer: int, x: Stream) -> Encoded:
        """Activations and pre-activations of one layer's features."""

    @abc.abstractmethod
    def reads(
        self, layer: int, x: Stream, position: Int[Tensor, " active"], index: Int[Tensor, " active"]
    ) -> FeatureReads:
        """How the active features (position, index) read ``x``, with their activation pattern (a
        gate, where there is one) frozen as it is at ``x``."""

    @abc.abstractmethod
    def written_layers(self, layer: int) -> range:
        """The layers whose MLP output the features of ``layer`` write to."""

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
        """The factors of :meth:`writes` in the write to ``target``: the activations, in some
        formats plus an offset where the feature is active."""
        del layer, index, target
        return activation

    @abc.abstractmethod
    def decoder_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """What is written at a layer independently of its features, or None."""

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """The linear skip of a layer [out, in], or None."""
        del layer
        return None

    @abc.abstractmethod
    def save(
        self,
        path: str | Path,
        *,
        format: SaveFormat = "tl-attribution",
        overwrite: bool = False,
    ) -> None:
        """Save the dictionary to a folder that ``load_dictionary`` reads.

        The files of a dictionary that was saved there are replaced. With ``overwrite`` the folder
        may hold something else, of which only files of the same names are replaced. Raises
        InputError for a format that cannot hold the dictionary, and for folders that are not
        replaced.
        """

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        license: str | None = None,
        evaluation: WritesJson | None = None,
    ) -> Published:
        """Publish to the repository ``repo``, ``org/name``, in one commit, with a model card and
        optionally an evaluation (the result of :func:`tl_attribution.evaluate`).

        ``revision`` is the branch; ``tag`` names the commit. The files are first written to the
        system's temporary folder. Raises InputError for an invalid name and for a dictionary that
        cannot be saved, HubError for failures of the Hub; nothing is published then.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "dictionary"
            self.save(folder)
            if evaluation is not None:
                evaluation.to_json(folder / publishing.EVALUATION)
            return publishing.publish(
                folder, repo, private=private, revision=revision, tag=tag, license=license
            )

    def encode(self, x: Streams) -> Activations:
        """Activations [layer, position, feature] from ``x`` at the read hook of every layer.

        Raises MismatchError for another number of layers or another width.
        """
        self._check(x)
        return torch.stack([self.encode_layer(i, x[i]).activation for i in range(self.n_layers)])

    def decode(self, acts: Activations, x: Streams | None = None) -> Streams:
        """Reconstruct what the MLPs write [layer, position, d_model] at the write hook.

        Dictionaries with a linear skip need ``x``; raises MismatchError without it.
        """
        out = acts.new_zeros(self.n_layers, acts.shape[1], self.d_model)
        features = torch.arange(self.n_features, device=acts.device)
        for source in range(self.n_layers):
            for target in self.written_layers(source):
                active = self.written_activation(source, features, target, acts[source])
                out[target] += active @ self.writes(source, features, target).to(acts)
        for layer in range(self.n_layers):
            out[layer] += self.affine(layer, None if x is None else x[layer], out[layer])
        return out

    def affine(self, layer: int, x: Stream | None, reference: Stream) -> Stream:
        """Decoder bias plus linear skip of one layer, with the shape, dtype and device of
        ``reference``."""
        out = torch.zeros_like(reference)
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
