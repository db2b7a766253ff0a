"""A small W&B server on loopback, for the real client: GraphQL, the stream of a run's files, and
uploads and downloads by address."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.plugins.wandb_state import ENTITY, KEY, GraphQLError, State


class Handler(BaseHTTPRequestHandler):
    """HTTP to :class:`State`."""

    protocol_version = "HTTP/1.1"
    state: State

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._keep)

    def do_GET(self) -> None:
        self._answer(self._get)

    def _answer(self, work: Any) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        status = self.state.status
        if self.state.refusals > 0 and not self.path.startswith("/sdk/"):
            self.state.refusals, status = self.state.refusals - 1, 500
        if self.state.gone:
            self.close_connection = True
            return
        if status is None:
            status, answer = work(unquote(urlsplit(self.path).path), raw)
        else:
            answer = {"errors": [{"message": f"no luck: {status}"}]}
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _known(self) -> bool:
        token = base64.b64encode(f"api:{KEY}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {token}"

    def _post(self, path: str, raw: bytes) -> tuple[int, Any]:
        if path.startswith("/sdk/"):  # wandb's telemetry
            return 200, {}
        if not self._known():
            return 401, {"errors": [{"message": "user is not logged in"}]}
        body = json.loads(raw)
        if path == "/graphql":
            return self._graphql(body)
        match = re.fullmatch(rf"/files/{ENTITY}/[^/]+/([^/]+)/file_stream", path)
        if match is None:
            return 404, {}
        with self.state.lock:
            run = self.state.runs[match[1]]
            run.stream(body.get("files") or {})
            if body.get("complete"):
                run.exit_codes.append(body["exitcode"])
        return 200, {}

    def _graphql(self, body: dict[str, Any]) -> tuple[int, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)|(\w+)", body["query"])
        operation = named[named.lastindex] if named and named.lastindex else ""
        variables = body.get("variables") or {}
        try:
            return 200, {"data": self.state.answer(operation, variables.get("input") or variables)}
        except GraphQLError as error:
            return 200, {"errors": [{"message": str(error)}], "data": None}

    def _keep(self, path: str, raw: bytes) -> tuple[int, Any]:
        self.state.storage[path.removeprefix("/storage/")] = raw
        return 200, b""

    def _get(self, path: str, raw: bytes) -> tuple[int, Any]:
        if path.startswith("/storage/"):
            content = self.state.storage.get(path.removeprefix("/storage/"))
        else:
            _, layout, *at = path.split("/")  # /artifacts/entity/digest, or V2's longer form
            entity, digest = (at[1], at[-2]) if layout == "artifactsV2" else at
            content = self.state.by_digest(entity, digest) if self._known() else None
        return (404, b"") if content is None else (200, content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def serve() -> Iterator[State]:
    """A server that is up until the block ends, or until it goes away."""
    state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def go_away() -> None:
        state.gone = True  # connections that are open get no answer either
        server.shutdown()
        server.server_close()

    state.go_away = go_away
    try:
        yield state
    finally:
        go_away()
        thread.join()
