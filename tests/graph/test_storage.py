from __future__ import annotations

import io
import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tl_attribution.errors import FormatError, NotFoundError
from tl_attribution.files import write_whole
from tl_attribution.graph import storage
from tl_attribution.graph.graph import Graph
from tl_attribution.graph.storage import KEY, load_graph, save_graph


class Payload:
    """Says so if a reader ever lets it run."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD"],))


@pytest.fixture
def payload(tmp_path, monkeypatch) -> Path:
    """The folder that exists once a payload ran."""
    folder = tmp_path / "ran"
    monkeypatch.setenv("PAYLOAD", str(folder))
    return folder


def _parts(graph: Graph, path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Header and tensors of a saved graph, to spoil."""
    save_graph(graph, path)
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return json.loads(opened.metadata()[KEY]), tensors


def _write(path: Path, header: object, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, metadata={KEY: json.dumps(header)})


@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.6]))
def test_a_graph_comes_back_the_same(random_graph, tmp_path_factory, seed, density):
    graph = random_graph(seed, density=density)
    path = tmp_path_factory.mktemp("graph") / "new" / "graph.safetensors"
    graph.save(path)
    assert load_graph(path) == graph


def test_sparse_and_dense_graphs_are_stored_differently_and_read_alike(random_graph, tmp_path):
    for density, stored in ((1.0, "adjacency"), (0.05, "edges")):
        graph = random_graph(3, n_features=60, density=density)
        _, tensors = _parts(graph, tmp_path / "graph")
        assert stored in tensors
        assert torch.equal(load_graph(tmp_path / "graph").adjacency, graph.adjacency)


def test_text_of_every_kind_survives(random_graph, tmp_path):
    tokens = ("\ud800", "\x00", "日本", '"</script>', "\u202e")
    graph = random_graph(0, tokens=tokens)
    graph.save(tmp_path / "graph")
    assert load_graph(tmp_path / "graph").about.tokens == tokens


def test_tensors_that_share_memory_can_be_saved(small_graph, tmp_path):
    graph = replace(small_graph, preactivation=small_graph.constant)
    graph.save(tmp_path / "graph")
    assert load_graph(tmp_path / "graph") == graph


def test_a_header_whose_length_looks_like_a_pickle_is_read(small_graph, tmp_path):
    # A safetensors file begins with its header's length, and a pickle with the byte 0x80.
    path = tmp_path / "graph"
    lengths = set()
    for padding in range(0, 256, 8):
        graph = replace(small_graph, about=replace(small_graph.about, model="m" * padding))
        graph.save(path)
        assert load_graph(path) == graph
        lengths.add(path.read_bytes()[0])
    assert 0x80 in lengths


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_raw_pickle_is_refused_and_not_run(tmp_path, payload, protocol):
    path = tmp_path / "graph.pt"
    path.write_bytes(pickle.dumps(Payload(), protocol=protocol))
    with pytest.raises(FormatError, match="pickle" if protocol > 1 else "truncated or corrupt"):
        load_graph(path)
    assert not payload.exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_torch_file_is_refused_and_not_run(tmp_path, payload, as_zip):
    path = tmp_path / "graph.pt"
    content = {"adjacency_matrix": torch.ones(2, 2), "cfg": Payload()}
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(FormatError, match=r"graph\.pt is a pickle, which can run code"):
        load_graph(path)
    assert not payload.exists()


def test_a_pickle_inside_a_graph_file_stays_bytes(small_graph, tmp_path, payload):
    header, tensors = _parts(small_graph, tmp_path / "graph")
    stream = io.BytesIO()
    pickle.dump(Payload(), stream)
    header["about"]["settings"] = {"note": stream.getvalue().decode("latin1")}
    _write(tmp_path / "graph", header, tensors)
    assert load_graph(tmp_path / "graph").about.settings == header["about"]["settings"]
    assert not payload.exists()


@given(data=st.data())
def test_a_truncated_file_is_refused(small_graph_bytes, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("graph") / "graph"
    path.write_bytes(small_graph_bytes[: data.draw(st.integers(0, len(small_graph_bytes) - 1))])
    with pytest.raises(FormatError, match=r"truncated or corrupt|pickle"):
        load_graph(path)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_still_a_graph(small_graph_bytes, tmp_path_factory, data):
    damaged = bytearray(small_graph_bytes)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("graph") / "graph"
    path.write_bytes(damaged)
    try:
        n = len(load_graph(path).nodes)
    except FormatError:
        return
    assert n == 11


@pytest.fixture(scope="session")
def small_graph_bytes(random_graph, tmp_path_factory) -> bytes:
    """A whole file, to cut and damage."""
    path = tmp_path_factory.mktemp("whole") / "graph"
    one_word = {"tokens": ("A",), "answers": (" b",)}
    random_graph(0, n_layers=2, n_features=6, **one_word).save(path)
    return path.read_bytes()


def test_another_version_says_what_to_do(small_graph, tmp_path):
    header, tensors = _parts(small_graph, tmp_path / "graph")
    _write(tmp_path / "graph", header | {"version": 2}, tensors)
    with pytest.raises(FormatError, match="version 2; this package reads version 1: update"):
        load_graph(tmp_path / "graph")


@pytest.mark.parametrize("header", [None, [], "graph", 7])
def test_a_header_of_another_kind_is_refused(small_graph, tmp_path, header):
    _, tensors = _parts(small_graph, tmp_path / "graph")
    _write(tmp_path / "graph", header, tensors)
    with pytest.raises(FormatError, match="not a graph"):
        load_graph(tmp_path / "graph")


def test_a_header_nested_too_deep_is_refused(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "graph", metadata={KEY: "[" * 100_000})
    with pytest.raises(FormatError, match="truncated or corrupt"):
        load_graph(tmp_path / "graph")


def test_another_safetensors_file_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="a safetensors file but not a graph"):
        load_graph(tmp_path / "model.safetensors")


@pytest.mark.parametrize("part", ["about", "certificate", "labels"])
def test_a_header_without_a_part_is_refused(small_graph, tmp_path, part):
    header, tensors = _parts(small_graph, tmp_path / "graph")
    for value in ({}, {"certificate": 3, "about": [], "labels": 5}):
        _write(tmp_path / "graph", {k: v for k, v in header.items() if k != part} | value, tensors)
        with pytest.raises(FormatError, match="lacks a part of a graph or holds a wrong one"):
            load_graph(tmp_path / "graph")


def test_tensors_that_do_not_fit_are_refused(small_graph, tmp_path):
    header, tensors = _parts(small_graph, tmp_path / "graph")
    n = len(small_graph.nodes)
    spoiled = {
        "constant": torch.zeros(n - 1),
        "nodes.kind": torch.full((n,), 5),
        "nodes.position": torch.full((n,), 2),
        "nodes.layer": torch.zeros(n + 1, dtype=torch.long),
        "edges": torch.full((5, 2), n, dtype=torch.int32),
    }
    for name, tensor in spoiled.items():
        assert name in tensors
        _write(tmp_path / "graph", header, tensors | {name: tensor})
        with pytest.raises(FormatError, match="lacks a part of a graph or holds a wrong one"):
            load_graph(tmp_path / "graph")


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    (tmp_path / "graph").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(FormatError, match="truncated or corrupt"):
        load_graph(tmp_path / "graph")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"no graph file at .*nowhere"):
        load_graph(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no graph file"):
        load_graph(tmp_path)


def _full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("existing", [None, b"the graph of yesterday"])
def test_nothing_is_half_written(small_graph, tmp_path, monkeypatch, existing):
    path = tmp_path / "graph"
    if existing is not None:
        path.write_bytes(existing)

    def half(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        _full_disk()

    monkeypatch.setattr(storage, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        small_graph.save(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [existing] * (existing is not None)


@pytest.mark.parametrize("method", ["to_json", "to_html"])
def test_pages_and_json_are_written_whole_too(small_graph, tmp_path, monkeypatch, method):
    (tmp_path / "file").write_text("yesterday's")
    monkeypatch.setattr(Path, "replace", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        getattr(small_graph, method)(tmp_path / "file")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["yesterday's"]


def test_files_get_the_rights_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "file").read_bytes() == b"content"
