"""A stand-in for the hub: a local HTTP server that answers what huggingface_hub asks.

Used through the environment that ``HubStandIn.environment(home)`` gives. It runs in a thread, so
synchronous and asynchronous tests alike can use it. Repositories are dictionaries of bytes; their
behaviour (gated, broken, slow ...) is set on the ``Repo`` and may change while it serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

LARGE_SUFFIXES = (".safetensors", ".bin", ".h5", ".pt", ".onnx", ".msgpack")
_INFO = re.compile(r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)(?:/revision/(?P<rev>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)")
_FILE = re.compile(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<name>.+)")
_CHUNK = 64 * 1024


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")


@dataclass
class Repo:
    """A repository and how it misbehaves.

    gated:      its files need accepted terms (its description does not).
    private:    only for those who send this token.
    status:     answer every request with this error.
    portal:     answer every request with a web page.
    stalled:    accept requests and never answer.
    claimed:    sizes told in the description, where they differ from the truth.
    damaged:    names of files of which wrong bytes are sent.
    lost:       names of files that are listed and not there.
    cut_at:     break the connection once, after this many bytes of a large file.
    hold_at:    send this many bytes of a large file, then nothing until ``release()``.
    no_ranges:  answer Range requests with the whole file.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: str | None = None
    status: int | None = None
    portal: bool = False
    stalled: bool = False
    claimed: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    cut_at: int | None = None
    hold_at: int | None = None
    no_ranges: bool = False

    @property
    def commit(self) -> str:
        """The revision: a hash of names and contents."""
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


class HubStandIn:
    """The server; a context manager.

    ``repos`` holds the repositories by id, ``requests`` what was asked. ``holding`` is set while
    a transfer is held, ``dropped`` once its client has gone away.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.holding = threading.Event()
        self.dropped = threading.Event()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its address, for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return this process's environment with the hub's place taken and a cache in ``home``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        return kept | own | more

    def add(self, repo_id: str, files: dict[str, bytes], **behaviour: object) -> Repo:
        """Add a repository."""
        self.repos[repo_id] = repo = Repo(files, **behaviour)  # type: ignore[arg-type]
        return repo

    def release(self) -> None:
        """Let held transfers and stalled requests go on."""
        self._released.set()

    def wait_until_gone(self, connection: object) -> None:
        """Hold a transfer until it is released, or its client has gone away."""
        self.holding.set()
        while not self._released.is_set():
            readable, _, _ = select.select([connection], [], [], 0.02)
            if readable:
                self.dropped.set()
                return

    def asked(self, method: str, ending: str) -> list[Request]:
        """Return the requests of a method whose path ends so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubStandIn


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.command, path, headers))
        for pattern, respond in ((_TREE, self._tree), (_INFO, self._info), (_FILE, self._file)):
            if match := pattern.fullmatch(path):
                repo = hub.repos.get(match["id"])
                if repo is None or (repo.private and self._token() != repo.private):
                    self._error(401, "RepoNotFound", "Repository not found")
                elif repo.stalled:
                    hub.wait_until_gone(self.connection)
                    self.close_connection = True
                elif repo.portal:
                    self._send_body(b"<html>Please log in</html>", "text/html")
                elif repo.status:
                    self._error(repo.status)
                elif match["rev"] not in {None, "main", repo.commit}:
                    self._error(404, "RevisionNotFound", "Invalid rev id")
                else:
                    respond(repo, **{k: v for k, v in match.groupdict().items() if k != "rev"})
                return
        self._error(404)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _info(self, repo: Repo, id: str) -> None:  # noqa: A002 - the pattern's group
        siblings = [
            {
                "rfilename": name,
                "size": _size(repo, name),
                "blobId": _git_hash(content),
                **({"lfs": _large(repo, name)} if _is_large(name) else {}),
            }
            for name, content in repo.files.items()
        ]
        self._json({"id": id, "modelId": id, "sha": repo.commit, "siblings": siblings})

    def _tree(self, repo: Repo, id: str) -> None:  # noqa: A002 - the pattern's group
        self._json(
            [
                {
                    "type": "file",
                    "path": name,
                    "size": _size(repo, name),
                    "oid": _git_hash(content),
                    **({"lfs": _tree_large(repo, name)} if _is_large(name) else {}),
                }
                for name, content in repo.files.items()
            ]
        )

    def _file(self, repo: Repo, id: str, name: str) -> None:  # noqa: A002 - the pattern's group
        commit = ("X-Repo-Commit", repo.commit)
        if repo.gated:
            return self._error(403, "GatedRepo", "Access to this model is restricted", commit)
        if name not in repo.files or name in repo.lost:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        content = repo.files[name]
        etag = hashlib.sha256(content).hexdigest() if _is_large(name) else _git_hash(content)
        if name in repo.damaged:
            content = bytes(len(content))
        start = 0
        if (wanted := self.headers.get("Range")) and not repo.no_ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        if _is_large(name):
            self.send_header("X-Linked-ETag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.send_header(*commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._send(repo, content, start, large=_is_large(name))
        return None

    def _send(self, repo: Repo, content: bytes, start: int, *, large: bool) -> None:
        stop = (repo.cut_at if repo.cut_at is not None else repo.hold_at) if large else None
        end = len(content) if stop is None else min(stop, len(content))
        for offset in range(start, end, _CHUNK):
            self.wfile.write(content[offset : min(offset + _CHUNK, end)])
        if stop is None:
            return
        if repo.cut_at is not None:
            repo.cut_at = None
            self.close_connection = True
            return
        self.server.hub.wait_until_gone(self.connection)
        if not self.server.hub.dropped.is_set():
            self.wfile.write(content[max(start, end) :])
        self.close_connection = True

    def _json(self, value: object) -> None:
        self._send_body(json.dumps(value).encode(), "application/json")

    def _send_body(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(
        self, status: int, code: str = "", message: str = "", *more: tuple[str, str]
    ) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        for header in (("X-Error-Code", code), ("X-Error-Message", message)):
            if header[1]:
                self.send_header(*header)
        for header in more:
            self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _is_large(name: str) -> bool:
    return name.endswith(LARGE_SUFFIXES)


def _size(repo: Repo, name: str) -> int:
    return repo.claimed.get(name, len(repo.files[name]))


def _large(repo: Repo, name: str) -> dict[str, object]:
    digest = hashlib.sha256(repo.files[name]).hexdigest()
    return {"sha256": digest, "size": _size(repo, name), "pointerSize": 130}


def _tree_large(repo: Repo, name: str) -> dict[str, object]:
    large = _large(repo, name)
    return {"oid": large["sha256"], "size": large["size"], "pointerSize": 130}


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
