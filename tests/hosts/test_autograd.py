"""The closed form equals autograd on every family, host and kind of dictionary; hosts agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import FAMILIES, HOSTS, PROCESSED_HOSTS, RAW_HOSTS, tiny
from tests.random_dictionaries import KINDS
from tl_attribution import kernels
from tl_attribution.attribution.attribute import attribute
from tl_attribution.graph.graph import Graph

PROMPT = [1, 9, 20, 33, 9, 41]

pytestmark = pytest.mark.hosts


def assert_same(graph: Graph, reference: Graph, relative: float, *, per_row: bool = True) -> None:
    """Same nodes, and every edge and constant within ``relative`` of its row's largest number, or
    of the largest of all."""
    assert [n.id for n in graph.nodes] == [n.id for n in reference.nodes]
    rows = reference.is_target
    size = torch.cat([reference.adjacency, reference.constant[:, None]], 1).abs().amax(1)[rows]
    size = size if per_row else size.max()
    edges = (graph.adjacency - reference.adjacency).abs().amax(1)[rows]
    constants = (graph.constant - reference.constant).abs()[rows]
    assert float((edges / size).max()) <= relative
    assert float((constants / size).max()) <= relative


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", RAW_HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_equals_autograd(family: str, host: str, kind: str) -> None:
    model = tiny(family, host)
    dictionary = KINDS[kind](model)
    graph = attribute(model, PROMPT, dictionary)
    assert graph.is_target.sum() > 20
    assert_same(graph, attribute(model, PROMPT, dictionary, engine="autograd"), 1e-5)
    assert graph.residual() <= 1e-4


@pytest.mark.parametrize("kind", ["clt-relu", "clt-normalized", "per-layer-skip", "neurons"])
@pytest.mark.parametrize("host", PROCESSED_HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_equals_autograd_with_folded_norms(
    family: str, host: str, kind: str
) -> None:
    model = tiny(family, host)
    dictionary = KINDS[kind](model)
    graph = attribute(model, PROMPT, dictionary, prefix=2)
    assert_same(graph, attribute(model, PROMPT, dictionary, engine="autograd", prefix=2), 1e-5)
    assert graph.residual() <= 1e-4


@pytest.mark.skipif(len(RAW_HOSTS) < 2, reason="this transformer-lens has one kind of model")
@pytest.mark.parametrize("kind", ["clt-relu", "clt-normalized", "per-layer-skip", "neurons"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_hosts_give_the_same_graph(family: str, kind: str) -> None:
    models = [tiny(family, host) for host in RAW_HOSTS]
    graphs = [attribute(model, PROMPT, KINDS[kind](model)) for model in models]
    # Two forward passes round differently, and a gate near zero makes that large in its small row.
    assert_same(graphs[0], graphs[1], 1e-4, per_row=False)
    assert graphs[0].scores() == pytest.approx(graphs[1].scores(), abs=1e-4)


def test_every_host_of_this_version_is_tested() -> None:
    assert HOSTS
    assert set(RAW_HOSTS) | set(PROCESSED_HOSTS) == set(HOSTS)


@pytest.mark.parametrize("kind", ["clt-relu", "per-layer-skip", "clt-raw-write"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_products_by_onednn_give_the_same_graph(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("this PyTorch has one library for products")
    model = tiny(family, RAW_HOSTS[0])
    dictionary = KINDS[kind](model)
    monkeypatch.setattr(kernels, "use_mkl", lambda: True)
    reference = attribute(model, PROMPT, dictionary)
    monkeypatch.setattr(kernels, "use_mkl", lambda: False)
    assert torch.equal(attribute(model, PROMPT, dictionary).adjacency, reference.adjacency), "small"
    monkeypatch.setattr(kernels, "SMALL_PRODUCT", 0)
    products: list[tuple[int, ...]] = []
    linear = torch.ops.mkldnn._linear_pointwise

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        products.append(tuple(x.shape))
        return linear(x, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    graph = attribute(model, PROMPT, dictionary)
    assert_same(graph, reference, 1e-5)
    assert products, "oneDNN multiplied"
