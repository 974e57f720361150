"""The seat: the process that hosts one worker on a cluster's node. It imports no Ray.

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

from mataserver.engines.program import Tenant
from mataserver.engines.releases import releases
from mataserver.engines.store import PIECE, Goods, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECRET_BYTES = 32
WORK, FILES, PROGRAM = b"W", b"F", b"P"
"""The purpose of a connection, sent after the secret: the worker's messages, files to be stored
first, or a program to run here."""
ARRIVAL = 30.0
"""Timeout in seconds for the server to connect."""
SAY = 5.0
"""Timeout in seconds for a connection to send the secret."""
STRANGERS = 16
"""Maximum number of unauthenticated connections; further ones wait in the backlog."""

log = logging.getLogger("mataserver.seat")


def bound(address: str) -> socket.socket:
    """Return a socket listening on ``address`` only, on a free port. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=STRANGERS)


class Seat:
    """One worker's host. Its methods are called remotely, each in a thread of its own."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or Store()
        self._over = threading.Event()

    def where(self) -> dict[str, str]:
        """Return the versions of the software here."""
        return releases()

    def listen(
        self,
        address: str,
        secret: bytes,
        goods: Sequence[dict[str, Any]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[str, int, list[str]]:
        """Listen on ``address`` for a connection that sends ``secret``; return host and port.

        Also returns the path of each of ``goods`` on this node, empty if it has none. The variables
        of ``environment`` are set after that search, which uses the node's own variables, and
        before anything of a model is imported. Raises ``OSError`` if it cannot listen, or cannot
        read one of the files.
        """
        found = [self._store.find(each) for each in msgspec.convert(list(goods), list[Goods])]
        os.environ.update(environment or {})
        server = bound(address)
        host, port = server.getsockname()[:2]
        threading.Thread(
            target=self._serve, args=(server, secret), name="seat", daemon=True
        ).start()
        return host, port, found

    def stay(self) -> None:
        """Return when the worker is closed: whoever awaits this call sees the end at once."""
        self._over.wait()

    def _serve(self, server: socket.socket, secret: bytes) -> None:
        """Run the worker for the server that connects; exit the process on failure or timeout."""
        try:
            with server:
                sock = self._worker(server, secret)
            if isinstance(sock, Tenant):
                sock.run()
                self._over.set()
                return
            if sock is not None:
                # Imported late: the server imports this module too, and must not load a worker's
                # code.
                from mataserver.engines import worker_main

                with sock:
                    worker_main.main(sock, None)
                self._over.set()
                return
        except BaseException:
            log.exception("the worker failed")
        os._exit(1)

    def _worker(self, server: socket.socket, secret: bytes) -> socket.socket | Tenant | None:
        """Return the worker's connection, after storing files sent on earlier connections.

        Returns a runner instead if the server wants a program run; None after a timeout.
        """
        while (sock := Door(server, secret).open()) is not None:
            sock.settimeout(SAY)
            purpose = sock.recv(1)
            sock.settimeout(None)
            if purpose == WORK:
                return sock
            if purpose == PROGRAM:
                return Tenant(sock)
            with sock, sock.makefile("rb") as reader:
                for receipt in self._store.receive(reader):
                    sock.sendall(msgspec.json.encode(receipt) + b"\n")
                _hear_out(sock)
        return None


def _hear_out(sock: socket.socket) -> None:
    """Read to the end: closing with unread data would reset the connection and lose the receipt."""
    sock.settimeout(SAY)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(PIECE):
            continue


class Door:
    """Admits the first connection that sends the secret; others cannot block it."""

    def __init__(self, server: socket.socket, secret: bytes) -> None:
        self._server = server
        self._secret = secret
        self._admitted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._strangers = threading.Semaphore(STRANGERS)

    def open(self) -> socket.socket | None:
        """Return the server's connection; None after a timeout."""
        until = time.monotonic() + ARRIVAL
        self._server.settimeout(0.05)
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                stranger, _ = self._server.accept()
                self._strangers.acquire()
                threading.Thread(target=self._hear, args=(stranger,), daemon=True).start()
            with contextlib.suppress(queue.Empty):
                return self._admitted.get(timeout=0.01)
        return None

    def _hear(self, stranger: socket.socket) -> None:
        """Admit a connection whose first bytes are the secret; close any other."""
        said = b""
        try:
            stranger.settimeout(SAY)
            while len(said) < SECRET_BYTES:
                piece = stranger.recv(SECRET_BYTES - len(said))
                if not piece:
                    break
                said += piece
        except OSError:
            said = b""
        finally:
            self._strangers.release()
        if not hmac.compare_digest(said, self._secret):
            stranger.close()
            return
        stranger.settimeout(None)
        stranger.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._admitted.put(stranger)
