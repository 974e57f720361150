"""The processes of ``bench/gateway.py``: the server behind, the ways to it, and who asks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil
import uvloop

from mataserver import NotFound, config, hookimpl
from mataserver import Route as Served
from mataserver import plugins as plugin_host
from mataserver.app import running as server_run
from mataserver_fleet.gateway.gateway import Gateway
from mataserver_fleet.gateway.options import GatewaySettings
from mataserver_fleet.gateway.snapshot import Application, Consumer, Route, Snapshot, Target
from mataserver_fleet.gateway.video_sessions import VideoSessions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from aiohttp import web


SECONDS = float(os.environ.get("SECONDS", "1"))
MANY = {"KEYS": "100000", "ROUTES": "1000"}
FEW = {"KEYS": "10", "ROUTES": "10"}
PATH, KEY = "/gateway/bench/v2/models/m/infer", "a-key-of-the-bench"
ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"outputs":1'
)


# the server behind


class Answering(asyncio.Protocol):
    """Reads a request and answers it, after a pause if there is one."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._left = 0
        self._head = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        if not self._left:
            head, end, rest = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head, self._left, data = b"", length_of(head), rest
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            asyncio.get_running_loop().call_later(self._pause, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():  # whoever asked may be done
            self._transport.write(ANSWER)


def length_of(head: bytes) -> int:
    """Return the Content-Length of a head."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def upstream(pause: str) -> None:
    """Serve until the process is ended; print the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(float(pause)), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# what stands in the middle


class Leg(asyncio.Protocol):
    """One side of a relay: hands what it gets to the other, no faster than that takes it."""

    def __init__(self, other: Leg | None = None) -> None:
        self.other = other
        self.transport: Any = None
        self.early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        """Hand over what came before."""
        self.transport = transport
        for each in self.early:
            transport.write(each)

    def data_received(self, data: bytes) -> None:
        """Hand it over."""
        if self.other is not None:
            if self.other.transport is None:
                self.other.early.append(data)
            else:
                self.other.transport.write(data)

    def pause_writing(self) -> None:
        """Read no more on the other side."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        """End the other side."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def relay(port: str) -> None:
    """Copy bytes in and out, and nothing else; print the port."""
    loop = asyncio.get_running_loop()
    legs = set()

    def accepted() -> Leg:
        near = Leg()
        near.other = Leg(near)
        task = loop.create_task(
            loop.create_connection(lambda: near.other or near, "127.0.0.1", int(port))
        )
        legs.add(task)
        task.add_done_callback(legs.discard)
        return near

    server = await loop.create_server(accepted, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def nowhere(_request: web.Request) -> web.StreamResponse:
    """Never asked: the gateway claims each such request."""
    raise NotFound("No such route")


class Service:
    """The gateway, for one application."""

    def __init__(self, ctx: Any) -> None:
        self.gateway = Gateway(ctx.http, GatewaySettings(), 30.0, VideoSessions.create)
        self.claims = self.gateway.claims

    def routes(self) -> tuple[Served]:
        """Return what the fleet's service has, so that no other route is looked at first."""
        return (Served("*", "/gateway/{application}/{path:.*}", nowhere, public=True),)

    async def __aenter__(self) -> Self:
        """Follow one application; other consumers and routes stand beside it."""
        await self.gateway.__aenter__()
        target = Target("127.0.0.1", int(os.environ["UPSTREAM"]))
        route = Route("m", ("/v2/models/m",), (target,))
        others = tuple(
            Route(f"m{n}", (f"/v2/models/m{n}",)) for n in range(int(os.environ["ROUTES"]))
        )
        bench = Application("bench", routes=(route, *others), consumers=frozenset({0}))
        keys = [KEY, *map(str, range(int(os.environ["KEYS"])))]
        consumers = [
            Consumer(n, str(n), hashlib.sha256(key.encode()).digest()) for n, key in enumerate(keys)
        ]
        self.gateway.follow(Snapshot([bench], consumers))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End it."""
        await self.gateway.__aexit__(*exc)


@hookimpl
def service(ctx: Any) -> Service:
    """Return the gateway."""
    return Service(ctx)


async def gateway() -> None:
    """Serve the gateway; print the port."""
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {
            "auth_mode": "none",
            "log_level": "warning",
            "outbound_hosts": ["127.0.0.1"],
        }
        settings = config.load(port=0, data_dir=folder, **given)
        point = importlib.metadata.EntryPoint("bench", "gateway_parts", plugin_host.GROUP)
        found = plugin_host.discover(settings, [point])
        await server_run.run(
            settings, lambda url, _: print(url.rpartition(":")[2], flush=True), found
        )


class Asking(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, request: bytes, spent: list[float]) -> None:
        self._request = request
        self._spent = spent
        self._seen = b""

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._begun = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end or len(body) < length_of(head):
            return
        if b" 200 " not in head[:16]:
            raise SystemExit(f"a request failed: {self._seen[:300]!r}")
        self._seen = b""
        self._spent.append(time.perf_counter() - self._begun)
        self._ask()


async def load(port: str, size: str, connections: str) -> None:
    """Ask on some connections for a while; print how many were answered, and their median."""
    loop, spent = asyncio.get_running_loop(), list[float]()
    lines = [f"POST {PATH} HTTP/1.1", "Host: bench", f"apikey: {KEY}", f"Content-Length: {size}"]
    lines += ["Content-Type: application/octet-stream", "Inference-Header-Content-Length: 2"]
    request = "\r\n".join([*lines, "", ""]).encode() + bytes(int(size))
    made = [
        await loop.create_connection(lambda: Asking(request, spent), "127.0.0.1", int(port))
        for _ in range(int(connections))
    ]
    await asyncio.sleep(SECONDS)
    for transport, _ in made:
        transport.abort()
    print(len(spent), statistics.median(spent) * 1e3)


class Way(NamedTuple):
    """One way to the server: its port, and the process in the middle."""

    port: int
    process: psutil.Process | None


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[Way]:
    """Run one of these parts; give its port and process."""
    process = subprocess.Popen(
        [sys.executable, __file__, *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        yield Way(int(process.stdout.readline()), psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(way: Way, size: int, connections: int) -> list[str]:
    """Let another process ask by one way; return what ``load`` printed."""
    command = [sys.executable, __file__, "load", str(way.port), str(size), str(connections)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


if __name__ == "__main__":
    uvloop.run(globals()[sys.argv[1]](*sys.argv[2:]))
