"""The runner: the process that hosts one worker on a cluster's node. It imports no Ray.

It listens on the node's own address for the one server that knows its secret. From then on it acts
as a child process on the server's machine does: the same program, the same messages.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver_ray.file_store import CHUNK_BYTES, FileManifest, FileStore
from mataserver_ray.program_relay import ProgramRelay
from mataserver_ray.versions import software_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECRET_BYTES = 32
WORKER, FILES, PROGRAM = b"W", b"F", b"P"
"""The purpose of a connection, sent after the secret: the worker's messages, files to be stored
first, or a program to run here."""
CONNECT_SECONDS = 30.0
"""Timeout in seconds for the server to connect."""
SECRET_SECONDS = 5.0
"""Timeout in seconds for a connection to send the secret."""
MAX_UNAUTHENTICATED = 16
"""Maximum number of unauthenticated connections; further ones wait in the backlog."""

log = logging.getLogger("mataserver.runner")


def listen_on(address: str) -> socket.socket:
    """Return a socket listening on ``address`` only, on a free port. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=MAX_UNAUTHENTICATED)


class NodeRunner:
    """Hosts one worker or program. Its methods are called remotely, each in its own thread."""

    def __init__(self, store: FileStore | None = None) -> None:
        self._store = store or FileStore()
        self._closed = threading.Event()

    def describe(self) -> dict[str, str]:
        """Return the versions of the software here."""
        return software_versions()

    def listen(
        self,
        address: str,
        secret: bytes,
        manifests: Sequence[dict[str, Any]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[str, int, list[str]]:
        """Listen on ``address`` for a connection that sends ``secret``; return host and port.

        Also returns the path of each of ``manifests`` on this node, empty if it has none. The
        variables of ``environment`` are set after that search, which uses the node's own variables,
        and before anything of a model is imported. Raises ``OSError`` if it cannot listen, or
        cannot read one of the files.
        """
        found = [
            self._store.find(each) for each in msgspec.convert(list(manifests), list[FileManifest])
        ]
        os.environ.update(environment or {})
        server = listen_on(address)
        host, port = server.getsockname()[:2]
        threading.Thread(
            target=self._serve, args=(server, secret), name="runner", daemon=True
        ).start()
        return host, port, found

    def wait_closed(self) -> None:
        """Return when the worker is closed, so that the broker learns of it immediately."""
        self._closed.wait()

    def _serve(self, server: socket.socket, secret: bytes) -> None:
        """Run the worker for the server that connects; exit the process on failure or timeout."""
        try:
            with server:
                sock = self._accept_worker(server, secret)
            if isinstance(sock, ProgramRelay):
                sock.run()
                self._closed.set()
                return
            if sock is not None:
                # Imported late: the server imports this module too, and must not load a worker's
                # code.
                from mataserver import run_worker

                with sock:
                    run_worker(sock, None)
                self._closed.set()
                return
        except BaseException:
            log.exception("the worker failed")
        os._exit(1)

    def _accept_worker(
        self, server: socket.socket, secret: bytes
    ) -> socket.socket | ProgramRelay | None:
        """Return the worker's connection, after storing files sent on earlier connections.

        Returns a runner instead if the server wants a program run; None after a timeout.
        """
        while (sock := Handshake(server, secret).accept()) is not None:
            sock.settimeout(SECRET_SECONDS)
            purpose = sock.recv(1)
            sock.settimeout(None)
            if purpose == WORKER:
                return sock
            if purpose == PROGRAM:
                return ProgramRelay(sock)
            with sock, sock.makefile("rb") as reader:
                for receipt in self._store.receive(reader):
                    sock.sendall(msgspec.json.encode(receipt) + b"\n")
                _drain(sock)
        return None


def _drain(sock: socket.socket) -> None:
    """Read to the end: closing with unread data would reset the connection and lose the receipt."""
    sock.settimeout(SECRET_SECONDS)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(CHUNK_BYTES):
            continue


class Handshake:
    """Admits the first connection that sends the secret; others cannot block it."""

    def __init__(self, server: socket.socket, secret: bytes) -> None:
        self._server = server
        self._secret = secret
        self._authenticated: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._unauthenticated = threading.Semaphore(MAX_UNAUTHENTICATED)

    def accept(self) -> socket.socket | None:
        """Return the server's connection; None after a timeout."""
        deadline = time.monotonic() + CONNECT_SECONDS
        self._server.settimeout(0.05)
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._server.accept()
                self._unauthenticated.acquire()
                threading.Thread(target=self._authenticate, args=(connection,), daemon=True).start()
            with contextlib.suppress(queue.Empty):
                return self._authenticated.get(timeout=0.01)
        return None

    def _authenticate(self, connection: socket.socket) -> None:
        """Admit a connection whose first bytes are the secret; close any other."""
        received = b""
        try:
            connection.settimeout(SECRET_SECONDS)
            while len(received) < SECRET_BYTES:
                chunk = connection.recv(SECRET_BYTES - len(received))
                if not chunk:
                    break
                received += chunk
        except OSError:
            received = b""
        finally:
            self._unauthenticated.release()
        if not hmac.compare_digest(received, self._secret):
            connection.close()
            return
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authenticated.put(connection)
