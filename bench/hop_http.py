"""The least that HTTP and isolation cost together: no check, no limit, no queue.

Run as ``python bench/hop_http.py PORT [MODEL]``; of a model that is named, answers are MessagePack.
One process takes the bodies from its connections straight into memory that it shares with as many
others as there are cores. Whichever of those is free is told in twelve bytes, does what the bare
loop does and leaves its answer in such memory, which the first one writes behind a head. What a
body is, its first byte tells. A connection may become a WebSocket; then each frame is a body, one
at a time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import mmap
import os
import re
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pybase64

import bare
import stub
from bare_hop import forked
from mataserver.engines.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 1 << 18
"""Bytes of a connection's part of the memory: a head and a body."""
MOST = 64
"""Connections at a time."""
BACK = 1 << 21
"""Bytes of the memory for a connection's answer."""
ORDER = struct.Struct("<III")
"""The connection, and where its body begins and ends."""
TOLD = struct.Struct("<II")
"""The connection of an answer, and how long it is."""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
KEY = re.compile(rb"\r\nsec-websocket-key: *(\S+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""
DEPTH = b"\x82\xa9timestamp\xcb%b\xa9depth_map\xc6%b"
"""How a map of a time (float64) and pixels (bytes) begins in MessagePack.

The load keeps equal strings once: answers that are all alike would cost it no memory.
"""
CLOSE = 0x8
"""The opcode of a WebSocket's goodbye."""


@dataclass(slots=True)
class Caller:
    """A connection, whose part of the memory begins at ``begin``.

    ``filled`` bytes of it have come; ``head`` and ``end`` are where its body begins and ends, once
    that is known.
    """

    sock: socket.socket
    begin: int
    filled: int = 0
    head: int = 0
    end: int = 0
    framed: bool = False


class Front:
    """The process of the sockets."""

    def __init__(self, port: int, model: str) -> None:
        self._map = mmap.mmap(-1, ROOM * MOST)
        self._view = memoryview(self._map)
        self._answers = memoryview(mmap.mmap(-1, BACK * MOST))
        self._workers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for _ in range(os.cpu_count() or 1):
            forked(lambda: work(model, theirs, self._workers, (self._view, self._answers)))
        theirs.close()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=MOST)
        self._callers: dict[int, Caller] = {}
        self._free = list(range(0, ROOM * MOST, ROOM))
        self._events = select.epoll()
        self._on: dict[int, Callable[[], None]] = {}
        for sock, take in ((self._listener, self._accept), (self._workers, self._answer)):
            self._events.register(sock, select.EPOLLIN)
            self._on[sock.fileno()] = take

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for number, _ in self._events.poll():
                caller = self._callers.get(number)
                if caller is not None:
                    self._take(caller)
                else:
                    self._on[number]()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._callers[sock.fileno()] = Caller(sock, self._free.pop())
        self._events.register(sock, select.EPOLLIN)

    def _part(self, caller: Caller) -> None:
        self._events.unregister(caller.sock)
        del self._callers[caller.sock.fileno()]
        self._free.append(caller.begin)
        caller.sock.close()

    def _take(self, caller: Caller) -> None:
        """Take what has come; have a whole body worked on."""
        begin = caller.begin
        try:
            read = caller.sock.recv_into(self._view[begin + caller.filled : begin + ROOM])
        except ConnectionError:
            read = 0
        if not read:
            self._part(caller)
            return
        caller.filled += read
        if not caller.head:
            (self._frame if caller.framed else self._request)(caller)
        if caller.head and begin + caller.filled >= caller.end:
            if caller.framed:
                self._unmask(caller)
            self._workers.send(ORDER.pack(caller.sock.fileno(), caller.head, caller.end))
            caller.filled = caller.head = 0

    def _request(self, caller: Caller) -> None:
        """Read the head of a request; one without a body is answered at once."""
        begin = caller.begin
        end = self._map.find(b"\r\n\r\n", begin, begin + caller.filled)
        if end < 0:
            return
        head = self._map[begin : end + 2]
        if length := LENGTH.search(head):
            caller.head = end + 4
            caller.end = caller.head + int(length[1])
            return
        caller.filled = 0
        if key := KEY.search(head):
            caller.framed = True
            caller.sock.sendall(UPGRADE % base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest()))
        else:
            caller.sock.sendall(HEAD % 2 + b"ok")

    def _frame(self, caller: Caller) -> None:
        """Read the head of a WebSocket's frame, which is masked."""
        begin, view = caller.begin, self._view
        if caller.filled < 14:
            return
        if view[begin] & 0xF == CLOSE:
            caller.sock.sendall(bytes((view[begin], 0)))
            caller.filled = 0
            return
        size, at = view[begin + 1] & 0x7F, begin + 2
        if size > 125:
            digits = 2 if size == 126 else 8
            size, at = int.from_bytes(view[at : at + digits], "big"), at + digits
        caller.head = at + 4
        caller.end = caller.head + size

    def _unmask(self, caller: Caller) -> None:
        head, end = caller.head, caller.end
        key = np.frombuffer(self._map, np.uint8, 4, head - 4)
        body = np.frombuffer(self._map, np.uint8, end - head, head)
        whole = len(body) // 4 * 4
        words = body[:whole].view(np.uint32)
        words ^= key.view(np.uint32)
        body[whole:] ^= key[: len(body) - whole]

    def _answer(self) -> None:
        """Write an answer to whom it is for."""
        number, size = TOLD.unpack(self._workers.recv(TOLD.size))
        caller = self._callers.get(number)
        if caller is None:
            return
        begin = caller.begin // ROOM * BACK
        head = _text(size) if caller.framed else HEAD % size
        whole = len(head) + size
        # The load leaves with requests open when its time is over.
        with contextlib.suppress(ConnectionError):
            sent = caller.sock.sendmsg([head, self._answers[begin : begin + size]])
            if sent < whole:
                caller.sock.sendall(self._answers[begin + sent - len(head) : begin + size])


def _text(size: int) -> bytes:
    """Return the head of a WebSocket's text of some hundred bytes."""
    return b"\x81\x7e" + size.to_bytes(2, "big")


def work(
    name: str, orders: socket.socket, other: socket.socket, memory: tuple[memoryview, memoryview]
) -> None:
    """Answer for each body that lies in the first memory, in the second one."""
    other.close()
    bodies, answers = memory
    model, write = bare.models(name or "noop", 1), writer(name)
    while told := orders.recv(ORDER.size):
        number, begin, end = ORDER.unpack(told)
        result = model(bare.pixels(image(bodies[begin:end])))
        orders.send(TOLD.pack(number, write(result, answers[begin // ROOM * BACK :])))


def writer(name: str) -> Callable[[Any, memoryview], int]:
    """Return what writes a result into memory and tells its length; a depth map is copied once."""
    encode = (msgspec.msgpack if name else msgspec.json).Encoder().encode

    def write(result: Any, memory: memoryview) -> int:
        answer = encode(result)
        memory[: len(answer)] = answer
        return len(answer)

    def write_depth(result: Any, memory: memoryview) -> int:
        pixels = result.depth_map.data.cast("B")
        head = DEPTH % (struct.pack(">d", time.time()), len(pixels).to_bytes(4, "big"))
        memory[: len(head)] = head
        memory[len(head) : len(head) + len(pixels)] = pixels
        return len(head) + len(pixels)

    return write_depth if name == "depth" else write


def image(body: memoryview) -> Any:
    """Return the image of a body: of JSON, of a form whose borders are known, or all of it."""
    if body[0] == ord("{"):
        return pybase64.b64decode(ASKED.decode(body).image)
    if body[0] == ord("-"):
        form = bytes(body)
        return form[form.index(bare.JPEG_START) : form.rindex(b"\r\n--")]
    return body


ASKED = msgspec.json.Decoder(bare.Asked)


def main() -> None:
    """Serve."""
    keep_freed_memory()
    if stub.asked():
        stub.decoder()
    Front(int(sys.argv[1]), *(sys.argv[2:] or [""])).run()


if __name__ == "__main__":
    main()
