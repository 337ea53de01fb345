"""A hub on the loopback interface, for tests with the real huggingface_hub client, with switches for what goes wrong.

It speaks as much of the hub's protocol as publishing and fetching files takes. Three listeners on 127.0.0.1: the hub;
the storage that it redirects large files to, as the real one does; and a stranger. The last two are called `localhost`,
because huggingface_hub 1.x takes every port of one host for the same place.

The client reads its settings once, when it is imported: give a subprocess the variables of `LoopbackHub.environment`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

Listener: TypeAlias = Literal["hub", "storage", "stranger"]
HANG_SECONDS = 120.0


@dataclass
class Faults:
    """What goes wrong; may be changed between two requests.

    Args:
        wrong_bytes: files have the right size and other bytes.
        short_body: files are cut in the middle, while the header promises all of them.
        shrunk: the storage has a shorter file than the hub announced.
        failing_heads: how many of the next questions for a file are answered 500.
        failing_gets: how many of the next transfers are answered 500.
        missing: every file is answered 404.
        locked: everything is answered 401.
        hang: nothing is answered, from the question on or from the transfer on.
        foreign_redirect: the storage sends the client on to a stranger.
        no_commit: answers lack X-Repo-Commit, as from a proxy that is no hub.
    """

    wrong_bytes: bool = False
    short_body: bool = False
    shrunk: bool = False
    failing_heads: int = 0
    failing_gets: int = 0
    missing: bool = False
    locked: bool = False
    hang: Literal["question", "transfer"] | None = None
    foreign_redirect: bool = False
    no_commit: bool = False


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    listener: Listener
    method: str
    path: str
    authorization: str | None
    user_agent: str


@dataclass
class _Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""


class LoopbackHub:
    """The hub; use it as a context manager, which starts and stops its listeners.

    Attributes:
        faults: what goes wrong.
        requests: what arrived, in order.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._repositories: dict[str, _Repository] = {}
        self._uploads: dict[str, bytes] = {}
        names: tuple[Listener, ...] = ("hub", "storage", "stranger")
        self._servers = {name: _server(self, name) for name in names}

    def __enter__(self) -> LoopbackHub:
        for server in self._servers.values():
            # a short poll: stopping waits for it
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def url(self, listener: Listener = "hub") -> str:
        """Return where a listener is."""
        name = "127.0.0.1" if listener == "hub" else "localhost"
        return f"http://{name}:{self._servers[listener].server_address[1]}"

    def environment(self, home: Path, *, token: str | None = None) -> dict[str, str]:
        """Return the variables that point the client at this hub, with its cache under `home`."""
        return {
            "HF_ENDPOINT": self.url(),
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **({"HF_TOKEN": token} if token else {}),
        }

    def commit(self, repo: str, files: Mapping[str, bytes]) -> str:
        """Add files to a repository, made if it is missing, and return the new 40-hex revision."""
        repository = self._repositories.setdefault(repo, _Repository())
        tree = {**repository.commits.get(repository.head, {}), **files}
        content = repr([repository.head, *((name, hashlib.sha256(tree[name]).hexdigest()) for name in sorted(tree))])
        repository.head = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        repository.commits[repository.head] = tree
        return repository.head

    def files(self, repo: str, revision: str | None = None) -> dict[str, bytes]:
        """Return what a repository holds at a revision, the newest by default."""
        repository = self._repositories[repo]
        return repository.commits[revision or repository.head]

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the 40-hex revision that a name stands for with its files, None if there is none."""
        repository = self._repositories.get(repo)
        if repository is None:
            return None
        pinned = repository.head if revision == "main" else revision
        return (pinned, repository.commits[pinned]) if pinned in repository.commits else None

    def has(self, repo: str) -> bool:
        """Whether there is such a repository."""
        return repo in self._repositories

    def blob(self, digest: str) -> bytes | None:
        """Return the large file with this sha256, from any commit."""
        trees = (tree for repository in self._repositories.values() for tree in repository.commits.values())
        return next((data for tree in trees for data in tree.values() if _sha256(data) == digest), None)

    def keep_upload(self, digest: str, data: bytes) -> None:
        """Keep a large file until a commit names it."""
        self._uploads[digest] = data

    def apply(self, repo: str, lines: list[dict[str, Any]]) -> str:
        """Make a commit of the lines that the client sends, and return its revision."""
        files: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._uploads[value["oid"]]
        return self.commit(repo, files)


def _server(hub: LoopbackHub, listener: Listener) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.listener = hub, listener
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    listener: Listener
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        """Answer a question for a file."""
        self._note()
        self._file(count="failing_heads")

    def do_GET(self) -> None:
        """Send a file."""
        self._note()
        if self.listener == "hub":
            self._file(count="failing_gets")
        else:
            self._stored()

    def do_PUT(self) -> None:
        """Take a large file."""
        self._note()
        data = self._body()
        digest = self.path.rpartition("/")[2]
        if _sha256(data) != digest:
            self._answer(400)
            return
        self.hub.keep_upload(digest, data)
        self._answer(200)

    def do_POST(self) -> None:
        """Take a step of a publication."""
        self._note()
        body = self._body()
        path = urlsplit(self.path).path
        if self.hub.faults.locked:
            self._answer(401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if not self.hub.has(repo):
                self.hub.commit(repo, {".gitattributes": b""})
            self._json({"url": f"{self.hub.url()}/{repo}", "id": repo})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/(.+)/preupload/([^/]+)", path):
            self._json({"files": [_upload_mode(file) for file in json.loads(body)["files"]]})
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**asked, "actions": {"upload": {"href": f"{self.hub.url('storage')}/blob/{asked['oid']}"}}}
                for asked in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/([^/]+)", path):
            revision = self.hub.apply(found[1], [json.loads(line) for line in body.splitlines() if line])
            url = f"{self.hub.url()}/{found[1]}/commit/{revision}"
            self._json({"success": True, "commitOid": revision, "commitUrl": url, "hookOutput": ""})
        else:
            self._answer(404)

    def _file(self, *, count: Literal["failing_heads", "failing_gets"]) -> None:
        """Answer for /owner/name/resolve/revision/file; a large file lies in the storage."""
        faults = self.hub.faults
        if faults.hang == "question":
            self.hub.closing.wait(HANG_SECONDS)
            self.close_connection = True
            return
        if (left := getattr(faults, count)) > 0:
            setattr(faults, count, left - 1)
            self._answer(500)
            return
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(urlsplit(self.path).path))
        if asked is None or faults.locked:
            self._answer(401 if faults.locked else 404)
            return
        repo, revision, name = asked.groups()
        found = self.hub.find(repo, revision)
        if found is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound" if self.hub.has(repo) else "RepoNotFound"})
            return
        pinned, files = found
        commit = {} if faults.no_commit else {"X-Repo-Commit": pinned}
        if faults.missing or name not in files:
            self._answer(404, {"X-Error-Code": "EntryNotFound", **commit})
        elif _is_large(name):
            digest = _sha256(files[name])
            place = {"Location": f"{self.hub.url('storage')}/blob/{digest}", "X-Linked-Etag": f'"{digest}"'}
            self._answer(302, {**place, "X-Linked-Size": str(len(files[name])), **commit})
        else:
            self._answer(200, {"ETag": f'"{_git_sha1(files[name])}"', **commit}, files[name])

    def _stored(self) -> None:
        """Send a large file; here the transfer goes wrong."""
        faults = self.hub.faults
        data = self.hub.blob(self.path.rpartition("/")[2])
        if faults.hang == "transfer":
            self.hub.closing.wait(HANG_SECONDS)
            self.close_connection = True
        elif faults.failing_gets > 0:
            faults.failing_gets -= 1
            self._answer(500)
        elif data is None:
            self._answer(404)
        elif faults.foreign_redirect and self.listener == "storage":
            self._answer(302, {"Location": f"{self.hub.url('stranger')}{self.path}"})
        elif faults.wrong_bytes:
            self._answer(200, body=bytes(byte ^ 0xFF for byte in data))
        elif faults.shrunk:
            self._answer(200, body=data[: len(data) // 2])
        elif faults.short_body:
            self._answer(200, body=data, cut_at=len(data) // 2)
        else:
            self._answer(200, body=data)

    def _answer(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, cut_at: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut_at])
        if cut_at is not None:
            self.close_connection = True

    def _json(self, answer: Mapping[str, Any]) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _note(self) -> None:
        get = self.headers.get
        self.hub.requests.append(
            Request(self.listener, self.command, self.path, get("Authorization"), get("User-Agent") or "")
        )


def _upload_mode(file: Mapping[str, Any]) -> dict[str, Any]:
    mode = "lfs" if _is_large(file["path"]) else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
