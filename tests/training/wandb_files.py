"""What wandb wrote offline, read back from its files."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 32768
"""Of LevelDB's log format, in bytes."""


class Session(NamedTuple):
    """What one ``.wandb`` file holds, decoded with the client's own messages."""

    records: list[Any]

    def of(self, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.records if r.WhichOneof("record_type") == kind]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [row(h) for h in self.of("history")]

    @property
    def config(self) -> dict[str, Any]:
        return {u.key: json.loads(u.value_json) for u in self.of("run")[0].config.update}

    @property
    def tags(self) -> list[str]:
        return list(self.of("run")[-1].tags)

    @property
    def summary(self) -> dict[str, Any]:
        return {u.key: json.loads(u.value_json) for s in self.of("summary") for u in s.update}

    @property
    def artifacts(self) -> dict[str, Any]:
        return {a.name: a for a in self.of("artifact")}


def row(history: Any) -> dict[str, Any]:
    """One logged row; what is nested comes as one item per leaf."""
    row: dict[str, Any] = {}
    for item in history.item:
        *above, name = [item.key] if item.key else item.nested_key
        level = row
        for key in above:
            level = level.setdefault(key, {})
        level[name] = json.loads(item.value_json)
    return row


def read(file: Path) -> Session:
    """A ``.wandb`` file: seven bytes, then records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, at, records, parts = file.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return Session(records)


def sessions(out: Path) -> list[Session]:
    """Every offline session of runs that are finished. The client's service may write the end of a
    run a moment after the run says that it is finished."""
    ending = time.monotonic() + 60
    while True:
        logged = [read(file) for file in sorted(out.glob("wandb/offline-run-*/*.wandb"))]
        if all(session.of("exit") for session in logged) or time.monotonic() > ending:
            return logged
        time.sleep(0.05)
