"""Where a single file's content goes: whole into regular files, through links, into devices."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import pytest

from tl_attribution.files import write_whole
from tl_attribution.graph.storage import load_graph

METHODS = ("to_html", "to_json", "save")


@pytest.mark.parametrize("method", METHODS)
def test_a_device_stays_a_device(small_graph, tmp_path, method):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.read_bytes()
    except OSError:
        pytest.skip("only root makes devices, where it may")
    getattr(small_graph, method)(device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert list(tmp_path.iterdir()) == [device]


@pytest.mark.parametrize("method", METHODS)
def test_a_pipe_is_written_into(small_graph, tmp_path, method):
    pipe, held = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: held.append(pipe.read_bytes()), daemon=True)
    reader.start()
    getattr(small_graph, method)(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(60)
    getattr(small_graph, method)(tmp_path / "file")
    assert held == [(tmp_path / "file").read_bytes()]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_stays(small_graph, tmp_path, exists):
    target, link = tmp_path / "disk" / "graph", tmp_path / "graph"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"yesterday's")
    link.symlink_to("disk/graph")
    small_graph.save(link)
    assert link.is_symlink()
    assert load_graph(target) == small_graph
    assert [p.name for p in target.parent.iterdir()] == ["graph"]


def test_standard_output_gets_the_content_after_what_was_printed(tmp_path):
    code = (
        "from tl_attribution.files import write_whole\n"
        "print('before'); write_whole('/dev/stdout', b'content\\n'); print('after')"
    )
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\ncontent\nafter\n"


def test_a_private_file_stays_private(tmp_path):
    (tmp_path / "file").write_text("yesterday's")
    (tmp_path / "file").chmod(0o600)
    write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
