"""Graphs in wandb: logged online and brought back, offline, disabled, and bad input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import wandb

import tl_attribution as tla
from tests.cli.graphs import small_graph
from tests.plugins.wandb_environment import files_containing, isolate
from tests.plugins.wandb_server import serve
from tests.plugins.wandb_state import KEY, Run, State
from tests.training.wandb_files import sessions
from tl_attribution.errors import FormatError, InputError, NotFoundError
from tl_attribution.graph import trackers
from tl_attribution.text import printable

MARKUP = "<img src=x onerror=alert(1)>"
PICKLE = b"\x80\x04N."


def hostile_graph() -> tla.Graph:
    """Its prompt, a token and a label would do harm if they were markup."""
    graph = small_graph()
    tokens = (MARKUP, graph.metadata.tokens[1])
    metadata = replace(graph.metadata, prompt="".join(tokens), tokens=tokens)
    nodes = replace(graph.nodes, labels=(MARKUP, *graph.nodes.labels[1:]))
    return replace(graph, metadata=metadata, nodes=nodes)


def opened(out: Path, **options: Any) -> wandb.Run:
    """A person's own run."""
    return wandb.init(entity="team", project="graphs", dir=str(out), reinit="create_new", **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[State]:
    with serve() as state, pytest.MonkeyPatch.context() as patch:
        isolate(patch, home, state.url, DIR=str(home), INIT_TIMEOUT="60")
        yield state
        wandb.teardown()


class Logged(NamedTuple):
    run: Run
    row: dict[str, Any]
    address: str


@pytest.fixture(scope="module")
def logged(server: State, home: Path) -> Logged:
    run = opened(home, id="g1")
    address = tla.log_graph(hostile_graph(), run)
    run.finish()
    assert address is not None
    kept = server.runs["g1"]
    return Logged(kept, kept.history[-1], address)


def test_a_graph_comes_back_by_its_address(logged: Logged) -> None:
    assert logged.address.startswith("wandb:team/graphs/graph-")
    name, latest, _ = logged.address.rpartition(":latest")
    assert latest
    for address in (logged.address, f"{name}:v0", name):
        assert tla.load_graph(address) == hostile_graph()


def test_scores_and_residual_are_in_the_summary(logged: Logged) -> None:
    graph = hostile_graph()
    expected = {**graph.scores()._asdict(), "residual": graph.residual(), "n_edges": graph.n_edges}
    summary = {name: logged.run.summary[f"graph/{name}"] for name in expected}
    assert summary == pytest.approx(expected)
    assert logged.run.summary["graph/prompt"] == printable(graph.metadata.prompt)


def test_the_page_is_a_panel_and_its_prompt_is_text(server: State, logged: Logged) -> None:
    panel = logged.row["graph"]
    assert panel["_type"] == "html-file"
    page = server.storage[f"media/g1/{panel['path']}"].decode()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page
    assert "Content-Security-Policy" in page
    assert "<link" not in page  # wandb would add its own style sheet


def test_nodes_and_edges_are_tables_of_text_and_numbers(server: State, logged: Logged) -> None:
    graph = hostile_graph()
    nodes = server.table(logged.run, logged.row["graph/nodes"])
    assert [line["id"] for line in nodes] == [node.id for node in graph.nodes]
    assert nodes[0]["label"] == MARKUP
    assert nodes[3]["token"] == MARKUP
    assert "\x1b" not in str(nodes)
    assert [line["influence"] for line in nodes] == pytest.approx(graph.nodes.influence.tolist())
    edges = server.table(logged.run, logged.row["graph/edges"])
    rows = {node.id: row for row, node in enumerate(graph.nodes)}
    for line in edges:
        weight = graph.adjacency[rows[line["target"]], rows[line["source"]]]
        assert line["weight"] == pytest.approx(float(weight))
    sizes = [abs(line["weight"]) for line in edges]
    assert len(sizes) == graph.n_edges
    assert sizes == sorted(sizes, reverse=True)


def test_text_that_names_a_project_gets_a_run_of_its_own(server: State) -> None:
    before = set(server.runs)
    address = tla.log_graph(small_graph(), "wandb:team/own")
    (name,) = set(server.runs) - before
    assert (server.runs[name].project, server.runs[name].exit_codes) == ("own", [0])
    assert address is not None
    assert tla.load_graph(address) == small_graph()


def test_a_large_graph_is_pruned_on_the_page_and_whole_in_the_artifact(
    server: State, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tl_attribution.view.page.LARGE_NODES", 3)
    run = opened(home, id="g2")
    address = tla.log_graph(small_graph(), run)
    run.finish()
    (row,) = server.runs["g2"].history
    edges = server.table(server.runs["g2"], row["graph/edges"])
    assert len(edges) == small_graph().prune().n_edges < small_graph().n_edges
    assert address is not None
    assert tla.load_graph(address) == small_graph()


def test_a_finished_run_is_refused(logged: Logged, home: Path) -> None:
    run = opened(home, id="g3")
    run.finish()
    with pytest.raises(InputError, match="run 'g3' does not take the graph"):
        tla.log_graph(small_graph(), run)


def test_another_persons_project_is_refused(server: State) -> None:
    with pytest.raises(InputError, match="wandb cannot open a run in 'graphs'"):
        tla.log_graph(small_graph(), "wandb:strangers/graphs")


@pytest.mark.parametrize("address", ["graphs", "a/b/c/d", "team/graphs/:v0", "a/b:v0:v1", ""])
def test_what_names_no_artifact_is_an_input_error(server: State, address: str) -> None:
    with pytest.raises(InputError, match="wandb:ENTITY/PROJECT/NAME:VERSION"):
        tla.load_graph(f"wandb:{address}")


@pytest.mark.parametrize(
    "address",
    ["team/graphs/nothing:v0", "team/graphs/NAME:v7", "strangers/graphs/NAME:v0"],
    ids=["unknown", "version", "no access"],
)
def test_an_artifact_that_is_not_there_or_not_ones_own(logged: Logged, address: str) -> None:
    name = logged.address.split("/")[-1].partition(":")[0]
    with pytest.raises(NotFoundError, match=r"does not give wandb:.*may read it"):
        tla.load_graph("wandb:" + address.replace("NAME", name))


def test_a_server_that_no_longer_knows_the_key(
    server: State, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "status", 401)
    with pytest.raises(NotFoundError, match="wandb login") as raised:
        tla.load_graph(logged.address)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("files", "entry", "message"),
    [
        ({"model.bin": b"x"}, {}, r"holds no graph.safetensors \(found: model.bin\)"),
        ({"graph.safetensors": b"junk"}, {}, "truncated or corrupt"),
        ({"graph.safetensors": PICKLE}, {}, "is a pickle"),
        ({"graph.safetensors": b"x"}, {"ref": "file:///etc/passwd"}, "not opened"),
    ],
    ids=["no graph", "corrupt", "pickle", "reference"],
)
def test_an_artifact_without_a_graph_is_a_format_error(
    server: State,
    files: dict[str, bytes],
    entry: dict[str, str],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    server.put("graphs", name, files, **entry)
    with pytest.raises(FormatError, match=message) as raised:
        tla.load_graph(f"wandb:team/graphs/{name}:v0")
    assert f"wandb:team/graphs/{name}:v0" in str(raised.value)


def test_the_key_is_in_no_file(server: State, logged: Logged, home: Path) -> None:
    assert not files_containing(KEY, home)
    assert not [content for content in server.storage.values() if KEY.encode() in content]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    isolate(monkeypatch, tmp_path / "home", "http://127.0.0.1:9", MODE="offline")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    wandb.teardown()


def test_offline_everything_is_in_the_runs_files(offline: Path) -> None:
    address = tla.log_graph(hostile_graph(), "wandb:team/graphs")
    (session,) = sessions(offline)
    (row,) = session.history
    assert row["graph/residual"] == pytest.approx(hostile_graph().residual())
    (page,) = offline.glob(f"wandb/offline-run-*/files/{row['graph']['path']}")
    assert "<img" not in page.read_text()
    ((name, artifact),) = [(n, a) for n, a in session.artifacts.items() if a.type == "graph"]
    assert address == f"wandb:team/graphs/{name}:latest"
    (file,) = artifact.manifest.contents
    assert tla.load_graph(file.local_path) == hostile_graph()


def test_disabled_nothing_is_kept(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tla.log_graph(small_graph(), "wandb:team/graphs") is None
    assert not list(offline.rglob("*.safetensors"))
    assert not (offline / "wandb").exists()


@pytest.mark.parametrize("run", ["wandbb:graphs", "graphs", 3, object()])
def test_what_is_no_run_is_an_input_error(run: object) -> None:
    with pytest.raises(InputError, match="expected a run of wandb"):
        tla.log_graph(small_graph(), run)


@pytest.mark.parametrize("where", ["wandb:a/b/c", "wandb:a?b"])
def test_a_place_that_is_no_project_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="wandb:PROJECT or wandb:ENTITY/PROJECT"):
        tla.log_graph(small_graph(), where)


def test_wandb_that_is_not_installed_comes_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(trackers.GRAPH_TRACKERS._entries, "wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    for use in (lambda: tla.load_graph("wandb:a/b/c:v0"), lambda: trackers.check_run("wandb:a")):
        with pytest.raises(NotFoundError, match=r"pip install 'tl-attribution\[wandb\]'"):
            use()


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    small_graph().save(tmp_path / "wandb:g")
    assert tla.load_graph(str(tmp_path / "wandb:g")) == small_graph()
    with pytest.raises(NotFoundError, match="no graph file at"):
        tla.load_graph("unknown:graph")
