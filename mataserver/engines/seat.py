"""The seat: what runs on a node of a cluster for one worker. It imports no Ray.

It listens on the node's own address for the one server that knows its secret, and is from then on
what a child process is on the server's machine: the same program behind the same messages.
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
"""What a connection is for, said after the secret: the worker's messages, files before those, or a
program that runs here."""
ARRIVAL = 30.0
"""Seconds that the server has to come."""
SAY = 5.0
"""Seconds that a connection has to say the secret."""
STRANGERS = 16
"""Connections that may be about to say it; more wait."""

log = logging.getLogger("mataserver.seat")


def bound(address: str) -> socket.socket:
    """Return a socket that listens on an address alone, on a free port. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=STRANGERS)


class Seat:
    """One worker's place. Its methods are called from afar, each in a thread of its own."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or Store()
        self._over = threading.Event()

    def where(self) -> dict[str, str]:
        """Tell what runs here."""
        return releases()

    def listen(
        self,
        address: str,
        secret: bytes,
        goods: Sequence[dict[str, Any]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[str, int, list[str]]:
        """Listen on ``address`` alone for whoever says ``secret`` first; return host and port.

        Returns where the files of each of ``goods`` are here as well, empty where they are not.
        The variables of ``environment`` are set once those were looked for, by what the node has
        set, and before anything of a model is imported. Raises ``OSError`` when it cannot listen,
        or cannot read one of the files.
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
        """Return when the worker has been closed; whoever waits learns of its end at once."""
        self._over.wait()

    def _serve(self, server: socket.socket, secret: bytes) -> None:
        """Be the worker of the server that came; end the process if that fails, or none comes."""
        try:
            with server:
                sock = self._worker(server, secret)
            if isinstance(sock, Tenant):
                sock.run()
                self._over.set()
                return
            if sock is not None:
                # Here, since the server looks at this module too, and needs nothing of a worker's.
                from mataserver.engines import child

                with sock:
                    child.main(sock, None)
                self._over.set()
                return
        except BaseException:
            log.exception("the worker failed")
        os._exit(1)

    def _worker(self, server: socket.socket, secret: bytes) -> socket.socket | Tenant | None:
        """Return the connection of the worker, once files have come that do so before it.

        Or who runs a program for the server.
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
    """Read what still comes: a connection that is closed before takes its last answer with it."""
    sock.settimeout(SAY)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(PIECE):
            continue


class Door:
    """Lets the first in that says the secret. Whoever says something else holds up nobody."""

    def __init__(self, server: socket.socket, secret: bytes) -> None:
        self._server = server
        self._secret = secret
        self._admitted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._strangers = threading.Semaphore(STRANGERS)

    def open(self) -> socket.socket | None:
        """Return the connection of the server; None when it does not come in time."""
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
        """Admit a connection whose first bytes are the secret; close every other one."""
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
