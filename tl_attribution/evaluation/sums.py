"""All that an evaluation sums over batches of contexts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tl_attribution.errors import FormatError
from tl_attribution.evaluation.metrics import (
    LossSum,
    ModelPredictions,
    PredictionSums,
    ReconstructionSums,
    replacement_metrics,
)
from tl_attribution.evaluation.results import AnswerMetrics, Evaluation, GraphScores
from tl_attribution.hosts.protocols import Traceable
from tl_attribution.replacement.context_batch import (
    ContextBatch,
    MlpReplacement,
    ablate,
    replace_all_layers,
    replace_layer,
    rows_per_pass,
    token_chunks,
)
from tl_attribution.replacement.prompt_run import AttachedDictionary
from tl_attribution.replacement.reconstruction import ActiveColumns, encode_columns, reconstruct
from tl_attribution.replacement.replacement_model import HostRun
from tl_attribution.shapes import Logits


class EvaluationSums:
    """The numbers of an evaluation, counted in batch by batch."""

    def __init__(self, attached: AttachedDictionary) -> None:
        self.attached = attached
        dictionary, d_model = attached.dictionary, attached.host.d_model
        layers = range(dictionary.n_layers)
        self.layers = [ReconstructionSums(d_model, dictionary.n_features) for _ in layers]
        self.model, self.contexts = LossSum(), 0
        self.single = [(PredictionSums(), LossSum()) for _ in layers]
        self.all_layers = (PredictionSums(), LossSum())

    def add(self, batch: ContextBatch, progress: Callable[[float], None]) -> None:
        """Count in some contexts; ``progress`` is called with the share that is done."""
        host_run = batch.host_run()
        _check_finite(self.attached.host, host_run.logits)
        predictions = ModelPredictions(host_run.logits, batch.following, batch.followed)
        self.contexts += len(batch)
        self.model.add(predictions, host_run.logits)
        variants = self._variants(self._reconstruct(host_run))
        del host_run
        n = max(1, rows_per_pass(self.attached, batch.token_ids.shape[1]) // len(batch))
        for start in range(0, len(variants), n):
            progress(start / len(variants))
            sums, replacements = zip(*variants[start : start + n], strict=True)
            for to, logits in zip(sums, batch.replaced(replacements), strict=True):
                to.add(predictions, logits)

    def _reconstruct(self, host_run: HostRun) -> list[Tensor]:
        """What each layer's MLP is reconstructed as, from features on the model's own streams."""
        dictionary = self.attached.dictionary
        outputs = [torch.empty_like(written) for written in host_run.written]
        for chunk in token_chunks(len(outputs[0])):
            active: list[ActiveColumns] = []
            for layer, sums in enumerate(self.layers):
                x, written = host_run.read[layer][chunk], host_run.written[layer][chunk]
                active.append(encode_columns(dictionary, layer, x))
                output = reconstruct(dictionary, active, layer, x, written)
                sums.add(active[-1], written, output)
                outputs[layer][chunk] = output
        return outputs

    def _variants(self, outputs: list[Tensor]) -> list[tuple[LossSum, MlpReplacement]]:
        """Every replacement that is measured, and where it is counted in."""
        variants: list[tuple[LossSum, MlpReplacement]] = []
        for layer, (output, (replaced, ablated)) in enumerate(
            zip(outputs, self.single, strict=True)
        ):
            variants.append((replaced, replace_layer(layer, output)))
            variants.append((ablated, ablate(range(layer, layer + 1))))
        replaced, ablated = self.all_layers
        variants.append((replaced, replace_all_layers(self.attached.dictionary)))
        variants.append((ablated, ablate(range(len(outputs)))))
        return variants

    def evaluation(
        self, answers: dict[str, AnswerMetrics], graphs: GraphScores | None
    ) -> Evaluation:
        """The numbers so far."""
        return Evaluation(
            model=self.attached.host.name,
            dictionary=self.attached.dictionary.kind,
            n_features=self.attached.dictionary.n_features,
            contexts=self.contexts,
            tokens=self.model.tokens,
            loss=self.model.mean_loss,
            layers=tuple(
                sums.evaluation(replacement_metrics(self.model, *pair))
                for sums, pair in zip(self.layers, self.single, strict=True)
            ),
            replaced=replacement_metrics(self.model, *self.all_layers),
            answers=answers,
            graphs=graphs,
        )


def _check_finite(host: Traceable, logits: Logits) -> None:
    if not logits.isfinite().all():
        raise FormatError(
            f"{host.name} gives NaN or infinite logits on this dataset; its weights are broken, or "
            "overflow in their dtype"
        )
