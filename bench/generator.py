"""The load of HTTP requests, or of WebSocket frames, in a process of its own.

Reads an ``Order`` as JSON on standard input and writes an ``Outcome`` as JSON.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TIMEOUT = 600.0


class Order(msgspec.Struct, frozen=True):
    """What to ask: for ``seconds``, or ``count`` times in all when that is not 0.

    An answer is good when its status is 200 and it holds ``needle`` exactly ``times`` times. With
    ``frames`` the body goes over one WebSocket, ``connections`` frames under way at a time.
    """

    url: str
    method: str
    headers: dict[str, str]
    body: str
    needle: str
    times: int
    connections: int
    seconds: float
    count: int = 0
    frames: bool = False

    def contents(self) -> bytes:
        """Return the body."""
        return Path(self.body).read_bytes() if self.body else b""


class Outcome(msgspec.Struct):
    """What came of it; latencies in milliseconds."""

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float
    example: str = ""


class Numbered(msgspec.Struct):
    """The number of the frame that is answered."""

    frame_id: int | None = None


class Tally:
    """Counts answers, and tells when there have been enough."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.needle = order.needle.encode()
        self.begun = self.last = time.perf_counter()
        self.asked = 0
        self.failed = 0
        self.example = ""
        self.latencies: list[float] = []

    def goes_on(self) -> bool:
        """Whether there is one more to ask, and count it."""
        if self.order.count:
            more = self.asked < self.order.count
        else:
            more = time.perf_counter() - self.begun < self.order.seconds
        self.asked += more
        return more

    def took(self, since: float) -> None:
        """Note the end of something that began at ``since``."""
        self.last = time.perf_counter()
        self.latencies.append(self.last - since)

    def answered(self, status: int, body: bytes, since: float) -> None:
        """Take an answer."""
        self.took(since)
        self.check(status, body)

    def check(self, status: int, body: bytes) -> None:
        """Count an answer that is not what it must be."""
        if status != 200 or body.count(self.needle) != self.order.times:
            self.failed += 1
            self.example = f"{status} {body[:100]!r}"

    def outcome(self) -> Outcome:
        """Return what came of it."""
        ordered = sorted(self.latencies)
        p50, p99 = (ordered[int(len(ordered) * share)] * 1e3 for share in (0.5, 0.99))
        elapsed = self.last - self.begun
        return Outcome(len(ordered), elapsed, self.failed, p50, p99, self.example)


class Connection(asyncio.Protocol):
    """Asks again as soon as it has its answer."""

    def __init__(self, tally: Tally, request: bytes) -> None:
        self._tally = tally
        self._request = request
        self._received = bytearray()
        self._head = self._needed = self._status = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        if not self._tally.goes_on():
            self._transport.close()
            return
        self._since = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self._received += data
        if not self._needed and not self._read_head():
            return
        if len(self._received) >= self._needed:
            body = bytes(self._received[self._head :])
            self._received.clear()
            self._needed = 0
            self._tally.answered(self._status, body, self._since)
            self._ask()

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end])
        length = LENGTH.search(head)
        self._head, self._status = end + 4, int(head[9:12])
        self._needed = self._head + (int(length[1]) if length else 0)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over; an answer that is still owed is a failure."""
        if exc is not None or self._received or self._needed:
            self._tally.failed += 1
            self._tally.example = f"the connection was lost: {exc}"
        if not self.done.done():
            self.done.set_result(None)


def encoded(order: Order) -> bytes:
    """Return the request's bytes."""
    parts, body = urlsplit(order.url), order.contents()
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc, **order.headers, "Content-Length": str(len(body))}
    lines = [f"{order.method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def requests(order: Order) -> Outcome:
    """Ask over as many connections as the order says."""
    loop, tally, request = asyncio.get_running_loop(), Tally(order), encoded(order)
    parts = urlsplit(order.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    made = [
        await loop.create_connection(lambda: Connection(tally, request), host, port)
        for _ in range(order.connections)
    ]
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*(connection.done for _, connection in made))
    return tally.outcome()


async def frames(order: Order) -> Outcome:
    """Keep a window of frames under way; one that the server dropped is no longer under way."""
    import aiohttp

    image = order.contents()
    async with (
        asyncio.timeout(TIMEOUT),
        aiohttp.ClientSession() as http,
        http.ws_connect(order.url, max_msg_size=0) as socket,
    ):
        tally, sent = Tally(order), deque[tuple[int, float]]()
        while True:
            while len(sent) < order.connections and tally.goes_on():
                sent.append((tally.asked - 1, time.perf_counter()))
                await socket.send_bytes(image)
            if not sent:
                return tally.outcome()
            body = (await socket.receive_str()).encode()
            tally.answered(200, body, _answered(body, sent))


def _answered(body: bytes, sent: deque[tuple[int, float]]) -> float:
    """Take the frame that is answered, and those dropped before it, out of ``sent``.

    Return when it was sent. A server that numbers nothing answers every frame in turn.
    """
    frame = msgspec.json.decode(body, type=Numbered).frame_id
    number, since = sent.popleft()
    while frame is not None and number < frame:
        number, since = sent.popleft()
    return since


def main() -> None:
    """Do what the order says."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    outcome = uvloop.run(frames(order) if order.frames else requests(order))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
