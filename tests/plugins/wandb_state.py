"""What a small W&B server knows: all that the real client of 0.26 to 0.31 asks for a run and its
artifacts, kept in memory. What it does not know it refuses, as a server does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

KEY = "a1b2c3d4" * 5
"""The only API key that the server takes."""
ENTITY = "team"
"""The only entity, which the key may read and write."""
WHEN = "2026-01-01T00:00:00"


class GraphQLError(Exception):
    """A GraphQL error."""


@dataclass
class Run:
    """One run as the server knows it."""

    project: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    streams: dict[str, list[str]] = field(default_factory=dict)
    """Lines of each streamed file, each at the offset under which it was sent."""
    opened: int = 0
    exit_codes: list[int] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every logged row."""
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> dict[str, Any]:
        """The latest summary."""
        return json.loads(self.streams.get("wandb-summary.json", ["{}"])[-1])

    def stream(self, files: dict[str, Any]) -> None:
        """Lines at their offsets; the summary is one line that is replaced."""
        for name, part in files.items():
            lines, at = self.streams.setdefault(name, []), part["offset"]
            lines[at : at + len(part["content"])] = part["content"]


@dataclass
class Artifact:
    """One version of an artifact; readers see it once it is committed."""

    id: str
    project: str
    name: str
    type: str
    digest: str
    version: int
    aliases: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    client_id: str = ""
    committed: bool = False


class State:
    """What arrived. Methods ``resolve_…`` answer the GraphQL operations of the same names."""

    def __init__(self) -> None:
        self.url = ""
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.storage: dict[str, bytes] = {}
        """Uploaded files by path: ``media``, ``manifests`` and ``artifacts``."""
        self.operations: list[str] = []
        """Every operation and every other request, in order."""
        self.status: int | None = None
        """If set, every request is answered with this status and changes nothing."""
        self.refusals = 0
        """So many requests are answered with 500 before the server is well again."""
        self.gone = False
        self.go_away: Callable[[], None] = lambda: None

    # What tests look at

    def of_type(self, kind: str) -> list[Artifact]:
        """Committed artifacts of one type, oldest first."""
        return [a for a in self.artifacts.values() if a.type == kind and a.committed]

    def files(self, artifact: Artifact) -> dict[str, bytes]:
        """What an artifact holds, by the names in its manifest."""
        manifest = json.loads(self.storage[f"manifests/{artifact.id}"])
        return {n: self.storage[f"artifacts/{artifact.id}/{n}"] for n in manifest["contents"]}

    def table(self, run: Run, logged: dict[str, Any]) -> list[dict[str, Any]]:
        """A logged table as one dictionary a line."""
        table = json.loads(self.storage[f"media/{run.name}/{logged['path']}"])
        return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]

    def put(self, project: str, name: str, files: dict[str, bytes], **entry: Any) -> Artifact:
        """A committed artifact that no client sent; ``entry`` goes into every manifest entry."""
        artifact = self._artifact(project, name, "graph", "digest")
        contents = {}
        for path, content in files.items():
            self.storage[f"artifacts/{artifact.id}/{path}"] = content
            digest = base64.b64encode(hashlib.md5(content).digest()).decode()
            contents[path] = {"digest": digest, "size": len(content)} | entry
        policy = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {}}
        manifest = {"version": 1, **policy, "contents": contents}
        self.storage[f"manifests/{artifact.id}"] = json.dumps(manifest).encode()
        artifact.committed, artifact.aliases = True, ["latest"]
        return artifact

    def answer(self, operation: str, variables: dict[str, Any]) -> Any:
        """The data of one operation."""
        self.operations.append(operation)
        resolve = getattr(self, f"resolve_{operation}", None)
        if resolve is None:
            raise GraphQLError(f"no operation {operation}")
        with self.lock:
            return resolve(**variables)

    # Who asks, and what the server can do

    def resolve_Viewer(self) -> Any:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {"id": "u", "entity": ENTITY, "username": "someone", "name": "", "email": ""}
        more = {"admin": False, "flags": "{}", "deletedAt": None, "apiKeys": None, "teams": teams}
        return {"viewer": viewer | more, "serverInfo": _server()}

    resolve_viewer = resolve_GetViewer = resolve_GetDefaultEntity = resolve_Viewer

    def resolve_ServerFeaturesQuery(self) -> Any:
        return {"serverInfo": _server()}

    # Runs

    def resolve_RunResumeStatus(self, project: str, entity: str, name: str) -> Any:
        _allowed(entity)
        run = self.runs.get(name)
        ids = {"id": project, "name": project, "entity": {"id": entity, "name": entity}}
        return {"model": ids | {"bucket": run and self._bucket(run) | _resume(run)}}

    def resolve_UpsertBucket(
        self, name: str = "", project: str = "", entity: str | None = None, **variables: Any
    ) -> Any:
        _allowed(entity)
        name = variables.get("id") or name
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(project, name))
        run.opened += not variables.get("id")
        if variables.get("config"):
            run.config |= json.loads(variables["config"])
        if variables.get("tags") is not None:
            run.tags = list(variables["tags"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        owner = {"id": ENTITY, "name": ENTITY}
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": {"id": run.project, "name": run.project, "entity": owner},
            "historyLineCount": len(run.history),
        }

    def resolve_CreateRunFiles(self, run: str, files: list[str], **_: Any) -> Any:
        urls = [{"name": f, "uploadUrl": self._url(f"media/{run}/{f}")} for f in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}

    # Artifacts, as they are sent

    def resolve_CreateArtifact(self, entityName: str, projectName: str, **variables: Any) -> Any:
        _allowed(entityName)
        name, kind = variables["artifactCollectionName"], variables["artifactTypeName"]
        artifact = self._artifact(projectName, name, kind, variables["digest"])
        artifact.aliases = [a["alias"] for a in variables.get("aliases") or []]
        artifact.metadata = json.loads(variables.get("metadata") or "{}")
        artifact.client_id = variables.get("clientID") or ""
        latest = [a for a in self._versions(projectName, name) if a.committed]
        sequence = {"latestArtifact": {"id": latest[-1].id} if latest else None}
        state = "COMMITTED" if artifact.committed else "PENDING"
        about = {"id": artifact.id, "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": about}}

    def _versions(self, project: str, name: str) -> list[Artifact]:
        return [a for a in self.artifacts.values() if (a.project, a.name) == (project, name)]

    def _artifact(self, project: str, name: str, kind: str, digest: str) -> Artifact:
        """A new version, or the one that has the same content."""
        versions = self._versions(project, name)
        for one in versions:
            if one.digest == digest:
                return one
        artifact = Artifact(
            f"artifact{len(self.artifacts)}", project, name, kind, digest, version=len(versions)
        )
        self.artifacts[artifact.id] = artifact
        return artifact

    def resolve_ClientIDMapping(self, clientID: str) -> Any:
        ids = [a.id for a in self.artifacts.values() if a.client_id == clientID]
        return {"clientIDMapping": {"serverID": ids[-1]} if ids else None}

    def resolve_ArtifactType(self, project: str, name: str, **_: Any) -> Any:
        versions = self._versions(project, name.partition(":")[0])
        answer = {"artifactType": {"name": versions[0].type}} if versions else None
        return {"project": {"artifact": answer}}

    def resolve_FetchArtifactDigestAlgorithm(self, **_: Any) -> Any:
        return {"project": None}

    def resolve_CreateArtifactManifest(self, artifactID: str, **_: Any) -> Any:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(artifactID)}}

    def resolve_UpdateArtifactManifest(self, artifactManifestID: str, **_: Any) -> Any:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(artifactManifestID)}}

    def _manifest(self, artifact: str) -> Any:
        url = self._url(f"manifests/{artifact}")
        return {"id": artifact, "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []}}

    def resolve_CreateArtifactFiles(self, artifactFiles: list[dict[str, str]], **_: Any) -> Any:
        edges = []
        for file in artifactFiles:
            path = f"artifacts/{file['artifactID']}/{file['name']}"
            node = {"storagePath": path, "uploadUrl": self._url(path), "uploadHeaders": []}
            node |= {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def resolve_CommitArtifact(self, artifactID: str) -> Any:
        artifact = self.artifacts[artifactID]
        for other in self._versions(artifact.project, artifact.name):
            if other is not artifact:
                other.aliases = [a for a in other.aliases if a not in artifact.aliases]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    # Artifacts, as they are read

    def resolve_ArtifactMembershipByName(
        self, entity: str, project: str, name: str, **_: Any
    ) -> Any:
        if entity != ENTITY:
            return {"project": None}
        name, _, version = name.partition(":")
        for one in self._versions(project, name):
            if one.committed and version in (f"v{one.version}", *one.aliases):
                return {"project": {"artifactCollectionMembership": _membership(one)}}
        return {"project": {"artifactCollectionMembership": None}}

    def resolve_ArtifactByID(self, id: str, **_: Any) -> Any:
        return {"artifact": _facts(self.artifacts[id])}

    def resolve_FetchArtifactManifest(self, id: str) -> Any:
        url = {"directUrl": self._url(f"manifests/{id}")}
        return {"artifact": {"currentManifest": {"file": url}}}

    def _url(self, path: str) -> str:
        return f"{self.url}/storage/{quote(path)}"

    def by_digest(self, entity: str, digest: str) -> bytes | None:
        """A file by its MD5 in hexadecimal digits, as clients ask without a URL."""
        for path, content in self.storage.items():
            if path.startswith("artifacts/") and hashlib.md5(content).hexdigest() == digest:
                return content if entity == ENTITY else None
        return None


def _server() -> Any:
    latest = {
        "outOfDate": False,
        "latestVersionString": "0.80.0",
        "versionOnThisInstanceString": "0.80.0",
    }
    return {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": latest}


def _allowed(entity: str | None) -> None:
    if entity not in (None, "", ENTITY):
        raise GraphQLError(f"permission denied: entity {entity}")


def _resume(run: Run) -> dict[str, Any]:
    """What a client needs to go on with a run."""

    def count(name: str) -> int:
        return len(run.streams.get(name, []))

    about = run.config.get("_wandb", {}).get("value", {})
    return {
        "summaryMetrics": json.dumps(run.summary),
        "logLineCount": count("output.log"),
        "eventsLineCount": count("wandb-events.jsonl"),
        "historyTail": json.dumps(run.streams.get("wandb-history.jsonl", [])[-1:]),
        "eventsTail": json.dumps(run.streams.get("wandb-events.jsonl", [])[-1:]),
        "tags": run.tags,
        "notes": "",
        "wandbConfig": json.dumps({"t": about.get("t")}),
    }


def _collection(artifact: Artifact) -> Any:
    project = {"id": "p", "internalId": "p", "name": artifact.project, "entity": {"name": ENTITY}}
    return {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}


def _facts(artifact: Artifact) -> Any:
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": _collection(artifact),
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": None,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": 1,
        "digest": artifact.digest,
        "digestAlgorithm": None,
        "commitHash": "",
        "fileCount": 1,
        "createdAt": WHEN,
        "updatedAt": None,
        "aliases": [],
    }


def _membership(artifact: Artifact) -> Any:
    aliases = [{"__typename": "ArtifactAlias", "id": a, "alias": a} for a in artifact.aliases]
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": artifact.id,
        "versionIndex": artifact.version,
        "createdAt": WHEN,
        "aliases": aliases,
        "artifactCollection": _collection(artifact),
        "artifact": _facts(artifact),
    }
