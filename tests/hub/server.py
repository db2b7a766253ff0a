"""A small Hugging Face Hub on loopback: repositories, LFS, commits, branches, tags, and failures on
request. It speaks the protocol that huggingface_hub 0.36 to 2.4 speaks, without xet."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_theTokenThatMustNeverBeShown0123"
SIGNATURE = "X-Amz-Signature=thisMustNotBeShownEither"
Tree = dict[str, tuple[str, bytes]]
"""Files by name: ``lfs`` or ``regular``, and their content."""


@dataclass
class Repo:
    """One repository: every commit's files, and what branches and tags lead to which."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": ("regular", b"*.safetensors filter=lfs\n")})

    def commit(self, branch: str, tree: Tree) -> str:
        told = json.dumps([branch, len(self.commits), sorted((n, k) for n, (k, _) in tree.items())])
        oid = hashlib.sha1(told.encode()).hexdigest()
        self.commits[oid] = tree
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        known = {**self.branches, **self.tags, **{oid: oid for oid in self.commits}}
        return known.get(revision)


@dataclass
class State:
    """What the Hub holds, what it was asked, and what it shall do wrong."""

    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256: uploaded, and maybe in no commit."""
    asked: list[str] = field(default_factory=list)
    """``METHOD /path`` of every request, with its range."""
    faults: list[tuple[str, Callable[[Any], None]]] = field(default_factory=list)
    """Pattern of ``METHOD /path``, and what to do instead of answering; each is used up."""
    etags: dict[str, str] = field(default_factory=dict)
    """What is sent in place of a file's ETag, by the file's name."""
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """The Hub goes down."""

    def hang(self, pattern: str) -> None:
        """Take the next requests like ``pattern``, and say nothing."""
        self.faults += [(pattern, lambda h: h.be_silent())] * 99

    def fail(self, pattern: str, status: int, message: str = "", times: int = 99) -> None:
        """Answer the next requests like ``pattern`` with an error."""
        self.faults += [(pattern, lambda h: h.problem(status, message=message))] * times

    def hang_up(self, pattern: str, after: int = 0, times: int = 99) -> None:
        """Cut the next connections like ``pattern``: after reading or sending so many bytes."""
        self.faults += [(pattern, lambda h: h.cut(after))] * times


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    # Answers

    def serve(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {self.path}"
        self.state.asked.append(f"{request} {self.headers.get('Range') or ''}".strip())
        for fault in self.state.faults:
            if re.search(fault[0], request):
                self.state.faults.remove(fault)
                fault[1](self)
                return
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, request):
                getattr(self, answer)(*found.groups())
                return
        self.problem(404, "RepoNotFound", f"no route {request}")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, held: Any, status: int = 200) -> None:
        self.reply(json.dumps(held).encode(), status, Content_Type="application/json")

    def problem(self, status: int, code: str = "", message: str = "") -> None:
        self.body()
        headers = {"X_Error_Code": code} if code else {}
        if message:
            headers["X_Error_Message"] = message
        self.reply(b"{}", status, **headers, Connection="close")
        self.close_connection = True

    def be_silent(self) -> None:
        self.body()
        self.state.over.wait()
        self.close_connection = True

    def cut(self, after: int) -> None:
        if self.command == "GET":
            content = self.resolved()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:after])
        else:
            self.rfile.read(after)
        self.close_connection = True
        self.connection.close()

    # Who may do what

    def repo(self, name: str) -> Repo | None:
        """The repository, if it is there for the one who asks; else the answer is sent."""
        found = self.state.repos.get(name)
        if found is not None and (self.logged_in() or not found.private):
            return found
        self.problem(404 if self.logged_in() else 401, "RepoNotFound", "Repository not found")
        return None

    def logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self) -> None:
        if not self.logged_in():
            self.problem(401, message="Invalid username or password.")
            return
        asked = json.loads(self.body())
        name = f"{asked['organization']}/{asked['name']}"
        if name.startswith("somebody-else/"):
            self.reply(b"{}", 403, X_Error_Message=f"No rights, {self.headers['Authorization']}")
        elif name in self.state.repos:
            self.json({"error": "You already created this", "url": f"{self.state.url}/{name}"}, 409)
        else:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.state.repos[name] = Repo(private=bool(private))
            self.json({"url": f"{self.state.url}/{name}", "name": name, "id": name})

    # Reading

    def info(self, name: str, revision: str | None) -> None:
        if (repo := self.repo(name)) is None:
            return
        oid = repo.resolve(revision or "main")
        if oid is None:
            self.problem(404, "RevisionNotFound", "Invalid rev id")
            return
        files = [self.listed(n, kind, data) for n, (kind, data) in repo.commits[oid].items()]
        self.json(
            {
                "_id": "1",
                "id": name,
                "sha": oid,
                "private": repo.private,
                "gated": repo.gated,
                "siblings": files,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def listed(self, name: str, kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        lfs = {"size": len(data), "sha256": digest, "pointerSize": 134} if kind == "lfs" else None
        told = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
        return told | ({"lfs": lfs} if lfs else {})

    def tree(self, name: str, revision: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        tree = repo.commits[repo.resolve(revision) or ""]
        kept = [(n, data) for n, (_, data) in tree.items()]
        self.json(
            [
                {"type": "file", "path": n, "size": len(data), "oid": git_hash(data)}
                for n, data in kept
            ]
        )

    def refs(self, name: str) -> None:
        if (repo := self.repo(name)) is not None:
            kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
            listed = {
                kind: [
                    {"name": n, "ref": f"refs/{of}/{n}", "targetCommit": c} for n, c in d.items()
                ]
                for kind, (of, d) in kinds.items()
            }
            self.json({**listed, "converts": []})

    def resolved(self) -> bytes:
        """Content of the file that a cut answer begins with."""
        found = re.fullmatch(RESOLVE, f"GET {self.path}")
        if found is None:
            return b""
        repo = self.state.repos[found[1]]
        return repo.commits[repo.resolve(found[2]) or ""][found[3]][1]

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        oid = repo.resolve(revision)
        if oid is None or file not in repo.commits[oid]:
            self.problem(404, "EntryNotFound" if oid else "RevisionNotFound")
        elif repo.gated:
            self.problem(403, "GatedRepo", "Access to this model is restricted")
        else:
            self.send_file(oid, file, *repo.commits[oid][file])

    def send_file(self, oid: str, name: str, kind: str, data: bytes) -> None:
        etag = hashlib.sha256(data).hexdigest() if kind == "lfs" else git_hash(data)
        headers = {
            "X_Repo_Commit": oid,
            "ETag": f'"{self.state.etags.get(name, etag)}"',
            "Accept_Ranges": "bytes",
        }
        sent = self.state.stored.get(etag, data) if kind == "lfs" else data
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None:
            self.reply(sent, **headers)
            return
        start = int(asked[1])
        headers["Content_Range"] = f"bytes {start}-{len(sent) - 1}/{len(sent)}"
        self.reply(sent[start:], 206, **headers)

    # Writing

    def preupload(self, name: str, revision: str) -> None:
        if self.repo(name) is not None:
            files = json.loads(self.body())["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self.json({"files": modes})

    def batch(self, name: str) -> None:
        objects = json.loads(self.body())["objects"]
        for one in objects:
            if one["oid"] not in self.state.stored:
                href = f"{self.state.url}/upload/{one['oid']}?{SIGNATURE}"
                one["actions"] = {"upload": {"href": href, "header": {}}}
        self.json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        data = self.body()
        if hashlib.sha256(data).hexdigest() != oid:
            self.problem(400, message="hash mismatch")
            return
        self.state.stored[oid] = data
        self.reply(b"")

    def commit(self, name: str, revision: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        header, *changes = (json.loads(line) for line in self.body().splitlines())
        head = repo.branches[revision]
        if header["value"].get("parentCommit", head) != head:
            self.problem(412, message="A commit has happened since. Please refresh and try again.")
            return
        tree = dict(repo.commits[head])
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del tree[value["path"]]
            elif change["key"] == "lfsFile":
                tree[value["path"]] = ("lfs", self.state.stored[value["oid"]])
            else:
                tree[value["path"]] = ("regular", base64.b64decode(value["content"]))
        oid = repo.commit(revision, tree)
        self.json({"success": True, "commitOid": oid, "commitUrl": f"{self.state.url}/{name}"})

    def branch(self, name: str, branch: str) -> None:
        self.body()
        if (repo := self.repo(name)) is not None:
            repo.branches[branch] = repo.branches["main"]
            self.json({})

    def delete_branch(self, name: str, branch: str) -> None:
        if (repo := self.repo(name)) is not None:
            del repo.branches[branch]
            self.json({})

    def tag(self, name: str, revision: str) -> None:
        asked = json.loads(self.body())
        if (repo := self.repo(name)) is not None:
            repo.tags[asked["tag"]] = repo.resolve(revision) or ""
            self.json({})

    def valid(self) -> None:
        self.body()
        self.json({"errors": [], "warnings": []})


RESOLVE = r"GET /([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)"
ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "valid",
    r"GET /api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?": "info",
    r"GET /api/models/([\w.-]+/[\w.-]+)/tree/(.+)": "tree",
    r"GET /api/models/([\w.-]+/[\w.-]+)/refs": "refs",
    r"POST /api/models/([\w.-]+/[\w.-]+)/preupload/(.+)": "preupload",
    r"POST /([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch": "batch",
    r"PUT /upload/(\w+)": "upload",
    r"POST /api/models/([\w.-]+/[\w.-]+)/commit/(.+)": "commit",
    r"POST /api/models/([\w.-]+/[\w.-]+)/branch/(.+)": "branch",
    r"DELETE /api/models/([\w.-]+/[\w.-]+)/branch/(.+)": "delete_branch",
    r"POST /api/models/([\w.-]+/[\w.-]+)/tag/(.+)": "tag",
    RESOLVE.replace("GET", "(?:GET|HEAD)"): "resolve",
}


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[State]:
    """A Hub that is up while the block runs."""
    state = State()
    handler = type("Bound", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    running = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    running.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        running.join()
