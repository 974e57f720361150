"""The least that isolation can cost: a body from a socket, two processes, shared memory, no HTTP.

Run as ``python bench/bare_hop.py MODEL``. One process reads each body from TCP straight into memory
that it shares with a second one, tells that one in eight bytes, and passes its answer on; the
second does what the bare loop does. Orders and what came of them are as those of ``bare``; what
fills the socket is the load, and is counted nowhere.
"""

from __future__ import annotations

import functools
import mmap
import os
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

import msgspec

import bare
import stub
from generator import Order, Tally
from mataserver.engines.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from generator import Outcome

ROOM = 1 << 22
"""Bytes of the memory that both share: the largest body and the largest answer."""
SIZE = struct.Struct("<Q")
ORDER = 1 << 63
"""Set in a size that is one of an order, which follows."""


def forked(target: Callable[[], None]) -> int:
    """Run ``target`` in a child, which then ends; return its id."""
    child = os.fork()
    if not child:
        try:
            target()
        finally:
            os._exit(0)
    return child


def exactly(sock: socket.socket, view: memoryview) -> bool:
    """Fill ``view`` from a socket; False where that ends before."""
    filled = 0
    while filled < len(view):
        read = sock.recv_into(view[filled:])
        if not read:
            return False
        filled += read
    return True


class Hop:
    """The process of the socket. That of the model lives as long, so that what it took is told."""

    def __init__(self, name: str) -> None:
        self._memory = memoryview(mmap.mmap(-1, ROOM))
        self._worker, theirs = socket.socketpair()
        forked(lambda: _serve(theirs, self._worker, self._memory, name))
        theirs.close()

    def measure(self, order: Order) -> Outcome:
        """Do what an order says. The answers are all the same, so the first alone is looked at."""
        body, said = order.contents(), msgspec.json.encode(order)
        self._worker.sendall(SIZE.pack(ORDER | len(said)) + said)
        self._memory[: len(body)] = body
        answer = self._asked(len(body))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Twice, so that it is no descendant: what it costs is no cost of this loop.
            address = listener.getsockname()
            fill = functools.partial(_fill, address, body, len(answer))
            os.waitpid(forked(lambda: _detached(fill)), 0)
            client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tally = Tally(order)
        tally.check(200, answer)
        with client:
            self._loop(tally, client, len(body))
        return tally.outcome()

    def _asked(self, size: int) -> bytes:
        self._worker.sendall(SIZE.pack(size))
        return self._worker.recv(ROOM)

    def _loop(self, tally: Tally, client: socket.socket, size: int) -> None:
        view = self._memory[:size]
        tally.begun = time.perf_counter()
        while tally.goes_on():
            since = time.perf_counter()
            exactly(client, view)
            client.sendall(self._asked(size))
            tally.took(since)


def _serve(sock: socket.socket, other: socket.socket, memory: memoryview, name: str) -> None:
    """Answer for each body that lies in the memory, as the last order says."""
    other.close()
    model = bare.models(name, 1)
    while told := sock.recv(SIZE.size):
        size = SIZE.unpack(told)[0]
        if size & ORDER:
            said = sock.recv(size ^ ORDER, socket.MSG_WAITALL)
            order = msgspec.json.decode(said, type=Order)
            decode, encode = bare.images(order), bare.encoders(name, order)
        else:
            sock.sendall(encode(model(decode(memory[:size]))))


def _detached(target: Callable[[], None]) -> None:
    """Run ``target`` in a process that is nobody's child."""
    forked(target)


def _fill(address: tuple[str, int], body: bytes, size: int) -> None:
    """Send a body and take its answer, until nobody answers any more."""
    answer = memoryview(bytearray(size))
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.sendall(body)
            while exactly(sock, answer):
                sock.sendall(body)
        except ConnectionError:
            return


def main() -> None:
    """Serve orders."""
    keep_freed_memory()
    if stub.asked():
        stub.decoder()
    hop = Hop(sys.argv[1])
    print(flush=True)
    for line in sys.stdin:
        outcome = hop.measure(msgspec.json.decode(line, type=Order))
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
