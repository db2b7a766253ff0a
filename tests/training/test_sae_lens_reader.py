"""SAELens's store gives what the host's own reader gives, or is declined."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.models import FAMILIES, HOSTS, VOCAB, tiny
from tl_attribution.hosts.protocols import MlpPairs
from tl_attribution.hosts.registry import host_for
from tl_attribution.registry import Registry
from tl_attribution.training import activation_reader
from tl_attribution.training.contexts import Contexts, padded

pytest.importorskip("sae_lens", reason="sae-lens is not installed")

pytestmark = pytest.mark.hosts


def rows() -> Contexts:
    ids = torch.randint(3, VOCAB, (3, 8), generator=torch.Generator().manual_seed(2))
    return padded([row[:n] for row, n in zip(ids.tolist(), (8, 5, 8), strict=True)], 8)


def reader_and_expected(family: str, host_name: str, read: str, write: str) -> tuple[Any, MlpPairs]:
    from tl_attribution.plugins.sae_lens.store import reader

    model = tiny(family, host_name)
    host = host_for(model)
    sites = host.read_site(read), host.write_site(write)
    return reader(model, host, *sites), host.read_mlps(rows().ids, *sites)


@pytest.mark.parametrize("read", ["ln2.hook_normalized", "hook_mlp_in", "hook_resid_pre"])
@pytest.mark.parametrize("host_name", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_store_gives_what_the_host_gives(family: str, host_name: str, read: str) -> None:
    reader, expected = reader_and_expected(family, host_name, read, "hook_mlp_out")
    activations = reader(rows())
    for side in (0, 1):
        assert activations[side].shape == expected[side].shape
        size = float(expected[side].abs().max())
        assert float((activations[side] - expected[side]).abs().max()) <= 1e-5 * size


@pytest.mark.parametrize(
    ("family", "host_name", "read", "write"),
    [
        ("gpt2", "hooked", "mlp.hook_in", "hook_mlp_out"),
        ("llama", "bridge", "mlp.hook_in", "hook_mlp_out"),
        ("gemma2", "hooked", "hook_mlp_in", "mlp.hook_out"),
    ],
)
def test_sites_that_no_hook_holds_are_declined(
    family: str, host_name: str, read: str, write: str
) -> None:
    assert reader_and_expected(family, host_name, read, write)[0] is None


def test_a_bridge_that_cannot_leave_out_logits_is_declined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tl_attribution.plugins.sae_lens.store import reader

    model = tiny("gpt2", "bridge")
    host = host_for(model)
    sites = host.read_site("hook_mlp_in"), host.write_site("hook_mlp_out")
    assert reader(model, host, *sites) is not None
    monkeypatch.setattr(model.original_model, "forward", lambda input_ids: None)
    assert reader(model, host, *sites) is None


@pytest.fixture
def no_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_reader, "ACTIVATION_READERS", Registry("activation reader"))


@pytest.mark.usefixtures("no_readers")
def test_the_last_reader_that_accepts_is_used_and_else_the_host() -> None:
    model = tiny("gpt2", "bridge")
    host = host_for(model)
    sites = host.read_site("hook_mlp_in"), host.write_site("hook_mlp_out")
    one = activation_reader.reader_for(model, host, *sites)(rows())
    assert torch.equal(one.inputs, host.read_mlps(rows().ids, *sites).inputs)
    registered = MlpPairs(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    register = activation_reader.ACTIVATION_READERS.register
    register("first", lambda *_: lambda _rows: MlpPairs(*reversed(registered)))
    register("accepts", lambda *_: lambda _rows: registered)
    register("declines", lambda *_: None)
    assert activation_reader.reader_for(model, host, *sites)(rows()) is registered


def test_importing_sae_lens_registers_its_store() -> None:
    code = """
import tl_attribution, sae_lens
from tl_attribution.extend import ACTIVATION_READERS
assert list(ACTIVATION_READERS) == ["sae_lens"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
