"""What SAELens fetches from the Hub by its own calls, over real HTTP: a CLT that we saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

import huggingface_hub
from sae_lens import SAE

import tl_attribution as tla
from tests.dictionaries.small import X, small
from tests.hub.checks import client_warns
from tests.hub.server import State

pytestmark = client_warns


def test_a_clt_in_a_repository_is_an_sae_by_its_repository_and_folder(
    hub: State, tmp_path: Path
) -> None:
    dictionary = small()
    dictionary.save(tmp_path / "tiny", format="sae-lens")
    api = huggingface_hub.HfApi()
    api.create_repo("me/clts")
    api.upload_folder(repo_id="me/clts", folder_path=tmp_path / "tiny", path_in_repo="clts/tiny")
    sae = SAE.from_pretrained("me/clts", "clts/tiny")
    assert sae.cfg.architecture() == "cross_layer_transcoder"
    assert sae.cfg.metadata.model_name == "gpt2"
    acts = dictionary.encode(X)
    assert torch.allclose(sae.encode(X), acts, rtol=1e-5, atol=1e-5)
    assert torch.allclose(sae.decode(acts), dictionary.decode(acts, X), rtol=1e-5, atol=1e-4)
    assert torch.equal(tla.load_dictionary("me/clts/clts/tiny").encode(X), acts)
