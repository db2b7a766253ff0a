"""crosslayer-transcoder's dictionaries, saved and computed by its own code. In its environment
(ae29e75; see benchmarks/clt_trainers/crosslayer_transcoder.py for how to set it up):

    python crosslayer_transcoder_case.py OUT
"""

from __future__ import annotations

from pathlib import Path

import cases
import torch
from cases import FEATURES, LAYERS, POSITIONS, WIDTH
from crosslayer_transcoder.model.clt import (
    CrosslayerDecoder,
    CrossLayerTranscoder,
    Decoder,
    Encoder,
)
from crosslayer_transcoder.model.jumprelu import JumpReLU, ReLU
from crosslayer_transcoder.model.standardize import (
    DimensionwiseInputStandardizer,
    DimensionwiseOutputStandardizer,
    LayerwiseInputStandardizer,
    LayerwiseOutputStandardizer,
)
from crosslayer_transcoder.model.topk import BatchTopK, PerLayerBatchTopK, PerLayerTopK

NONLINEARITIES = {
    "relu": ReLU,
    "jumprelu": lambda: JumpReLU(n_layers=LAYERS, d_features=FEATURES),
    "topk": lambda: PerLayerTopK(k=6, n_layers=LAYERS),
    "batchtopk": lambda: BatchTopK(k=6, e=0.1, n_layers=LAYERS),
    "per-layer-batchtopk": lambda: PerLayerBatchTopK(k=6, e=0.1, n_layers=LAYERS),
}
STANDARDISERS = {
    "dimensionwise": (DimensionwiseInputStandardizer, DimensionwiseOutputStandardizer, WIDTH),
    "layerwise": (LayerwiseInputStandardizer, LayerwiseOutputStandardizer, 0),
}
VARIANTS = {
    **{f"clt-{name}": (CrosslayerDecoder, name, "dimensionwise", False) for name in NONLINEARITIES},
    "clt-folded": (CrosslayerDecoder, "jumprelu", "dimensionwise", True),
    "clt-layerwise": (CrosslayerDecoder, "relu", "layerwise", False),
    "set-jumprelu": (Decoder, "jumprelu", "dimensionwise", False),
    "set-folded": (Decoder, "topk", "dimensionwise", True),
}


def activations(model: CrossLayerTranscoder, pre: torch.Tensor) -> torch.Tensor:
    """Features as at inference, where BatchTopK uses the threshold that it kept."""
    act = model.nonlinearity
    if hasattr(act, "threshold"):
        return torch.stack([act(pre[:, i], layer=i) for i in range(LAYERS)], 1)
    return act(pre)


def main(out: Path) -> None:
    """Write every variant and what it computes."""
    for name, folder, into in cases.variants(out, "crosslayer-transcoder", list(VARIANTS)):
        decoder, act, standardiser, fold = VARIANTS[name]
        read, write, second = STANDARDISERS[standardiser]
        sizes = {"d_acts": WIDTH, "d_features": FEATURES, "n_layers": LAYERS}
        model = CrossLayerTranscoder(
            NONLINEARITIES[act](),
            Encoder(**sizes),
            decoder(**sizes),
            read(LAYERS, second),
            write(LAYERS, second),
        )
        cases.randomize(model)
        x = cases.inputs()
        seen = torch.stack([x.transpose(0, 1), torch.randn(POSITIONS, LAYERS, WIDTH) * 3 + 1], 1)
        model.initialize_standardizers(seen)
        model(x.transpose(0, 1))  # BatchTopK's threshold moves towards its batches'
        if hasattr(model.nonlinearity, "threshold"):
            model.nonlinearity.threshold += 0.3
        pre = model.encoder(model.input_standardizer(x.transpose(0, 1)))
        acts = activations(model, pre)
        recon = model.output_standardizer(model.decoder(acts))
        model.save_pretrained(into, fold_standardizers=fold)
        cases.write(folder, x, acts.transpose(0, 1), recon.transpose(0, 1))


if __name__ == "__main__":
    main(cases.arguments(__doc__))
