"""The same interventions by tl-attribution and by circuit-tracer 0.5.0 on the same random weights,
cross-layer and per-layer transcoders: do the logits and pre-activations of every mode agree?

    python benchmarks/compare_interventions.py --peer-python .venv-circuit-tracer/bin/python

See peer_circuit_tracer.py for how to make the peer's environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import SMALL, THREADS, fill, make, new_model, read_shape, read_transcoder, show
from safetensors.torch import load_file

import tl_attribution as tla
from tl_attribution.dictionaries.activations import ReLU
from tl_attribution.dictionaries.transcoder import LayerWeights

HERE = Path(__file__).parent
WITHIN = 1e-4


def modes(n_layers: int) -> dict[str, dict[str, Any]]:
    """Ours and the peer's settings of every mode, by name."""
    within = [0, n_layers - 1]
    return {
        "direct": {"ours": {"propagation": "direct"}, "layers": [0, n_layers], "frozen": True},
        "constrained": {
            "ours": {"propagation": "constrained", "layers": range(*within)},
            "layers": within,
            "frozen": True,
        },
        "iterative": {"ours": {}, "layers": None, "frozen": True},
        "iterative, attention free": {
            "ours": {"freeze_attention": False},
            "layers": None,
            "frozen": False,
        },
    }


def groups(folder: Path, n_features: int, n_positions: int, n_layers: int) -> None:
    """Write twelve groups of one to three changes, drawn at random, none above the last layer but
    one, which ``constrained`` writes to."""
    draw = torch.Generator().manual_seed(1)

    def below(n: int, first: int = 0) -> int:
        return int(torch.randint(first, n, (), generator=draw))

    drawn_groups = []
    for i in range(12):
        places = {
            (below(n_layers - 1), below(n_positions, 1), below(n_features))
            for _ in range(1 + i % 3)
        }
        drawn_groups.append(
            [[*place, 4 * float(torch.rand((), generator=draw)) - 1] for place in places]
        )
    (folder / "interventions.json").write_text(json.dumps(drawn_groups))


def ours(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Logits and pre-activations of every mode and group."""
    shape = read_shape(folder)
    model = new_model(shape)
    fill(model, folder)
    weights = read_transcoder(folder)
    if kind == "per-layer":
        weights = [{**w, "W_dec": w["W_dec"][:, :1]} for w in weights]
    dictionary_class = tla.CrossLayerTranscoder if kind == "cross-layer" else tla.TranscoderSet
    dictionary = dictionary_class(
        [LayerWeights(**w) for w in weights], ReLU(), feature_input_hook="hook_resid_mid"
    )
    tokens = load_file(folder / "prompt.safetensors")["tokens"]
    groups = json.loads((folder / "interventions.json").read_text())
    changes = [[tla.Intervention(*change) for change in group] for group in groups]
    outputs: dict[str, torch.Tensor] = {}
    for name, mode in modes(shape.n_layers).items():
        runs = list(
            tla.intervene_each(model, tokens, dictionary, changes, prefix=1, **mode["ours"])
        )
        outputs[f"{name}: logits"] = torch.stack([run.logits for run in runs])
        encoders = [layer.W_enc for layer in dictionary.layers]
        pre = [
            torch.stack([x @ w.T for x, w in zip(run.reads, encoders, strict=True)])
            + torch.stack([layer.b_enc for layer in dictionary.layers])[:, None]
            for run in runs
        ]
        outputs[f"{name}: pre-activations"] = torch.stack(pre)[:, :, 1:]
    return outputs


def compare(folder: Path, kind: str, python: str) -> float:
    """Show the differences between both sides; returns the largest one, relative to the largest
    change by an intervention."""
    (folder / "modes.json").write_text(
        json.dumps({k: {**v, "ours": None} for k, v in modes(read_shape(folder).n_layers).items()})
    )
    command = [python, str(HERE / "peer_interventions.py"), str(folder), kind]
    subprocess.run(command, check=True)
    peer, our_outputs = load_file(folder / f"peer_{kind}.safetensors"), ours(folder, kind)
    figures = {}
    for name, output in our_outputs.items():
        change = (peer[name] - peer[f"unchanged: {name.split(': ')[1]}"]).abs().max()
        figures[name] = float((output - peer[name]).abs().max() / change)
    show(f"{kind}: largest difference / largest change", figures)
    return max(figures.values())


def main() -> None:
    """Compare both kinds; exits with 1 unless everything agrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="circuit-tracer's interpreter")
    python = parser.parse_args().peer_python
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        make(SMALL, Path(folder))
        groups(Path(folder), SMALL.n_features, SMALL.n_positions, SMALL.n_layers)
        worst = max(compare(Path(folder), kind, python) for kind in ("cross-layer", "per-layer"))
    raise SystemExit(worst > WITHIN)


if __name__ == "__main__":
    main()
