"""circuit-tracer's dictionaries, saved and evaluated by its own code; with ``--read``, those that
tl_attribution wrote. In circuit-tracer's environment (0.5.0):

    python circuit_tracer_case.py OUT           python circuit_tracer_case.py OUT --read
"""

from __future__ import annotations

from pathlib import Path

import cases
import torch
import yaml
from cases import FEATURES, LAYERS, WIDTH
from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.utils.caching import get_cached_path, load_transcoders_from_cache
from torch.nn import functional as F

FP32 = {"dtype": torch.float32, "device": torch.device("cpu")}

K = 30
"""More than the positive pre-activations: circuit-tracer's TopK has no ReLU."""


def config(folder: Path, kind: str, name: str) -> None:
    """The config of a folder."""
    settings = {"model_name": "tiny", "model_kind": kind, "scan": "tiny"}
    settings |= {"activation": "topk", "k": K} if "topk" in name else {}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | hooks))


def clt(name: str) -> CrossLayerTranscoder:
    """A random CLT."""
    act = "jump_relu" if "jump" in name else "relu"
    model = CrossLayerTranscoder(LAYERS, FEATURES, WIDTH, act, lazy_decoder=False, **FP32)
    cases.randomize(model)
    if act == "jump_relu":
        model.activation_function.threshold.data.sub_(0.1)  # some below zero
    return model


def transcoders(name: str) -> TranscoderSet:
    """A random set of transcoders."""
    layers = {}
    for layer in range(LAYERS):
        act = JumpReLU(0.3 * torch.randn(FEATURES)) if "jump" in name else F.relu
        act = TopK(K) if "topk" in name else act
        skip = "skip" in name
        layers[layer] = SingleLayerTranscoder(WIDTH, FEATURES, act, layer, skip, **FP32)
        cases.randomize(layers[layer], except_for=("threshold",))
    return TranscoderSet(layers, "hook_resid_mid", "hook_mlp_out")


def make(out: Path) -> None:
    """Write every variant and what it computes."""
    names = [
        "set-topk",
        "clt-relu",
        "clt-jumprelu",
        "set-relu",
        "set-jumprelu",
        "set-skip",
        "set-jumprelu-skip",
    ]
    for name, folder, into in cases.variants(out, "circuit-tracer", names):
        is_clt = name.startswith("clt")
        model, x = (clt if is_clt else transcoders)(name), cases.inputs()
        model.to_safetensors(str(into))
        config(into, "cross_layer_transcoder" if is_clt else "transcoder_set", name)
        acts = model.encode(x)
        recon = model.decode(acts, x)
        cases.write(folder, x, acts, recon)


def read(out: Path) -> None:
    """Open what compare.py wrote, as circuit-tracer opens a repository it has cached."""
    for folder, x in cases.ours(out, "circuit-tracer"):
        name = str((folder / "dictionary").relative_to(out))
        assert get_cached_path(name, out) == folder / "dictionary"
        model, loaded_config = load_transcoders_from_cache(name, out, **FP32)
        acts = model.encode(x)
        recon = model.decode(acts.to_sparse() if "clt" in folder.name else acts, x)
        cases.check_agreement(folder, acts, recon)
        print(f"  {loaded_config}")


if __name__ == "__main__":
    cases.run(__doc__, make, read)
