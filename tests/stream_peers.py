"""What the tests of streaming share: sessions, a client made of bytes, a model behind a gate."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.metadata
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import psutil

from conftest import FAKES, picture, register
from mataserver import Backend, hookimpl, plugins, testing

if TYPE_CHECKING:
    from pathlib import Path

PNG = picture()
LOADS_EXIT = "loads-exit"
GATED_MODELS = {"gated": "detect", "fragile": "track"}
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


async def open_session(http, model="fake-detect", **params):
    """Create a session; return its id."""
    async with http.post("/v1/sessions", json={"model": model, "params": params}) as response:
        body = await response.json()
        assert response.status == 201, body
        return body["session_id"]


async def open_url(http, model="fake-detect", **params):
    """Create a session; return the URL of its socket with the key of the tests."""
    async with http.post("/v1/sessions", json={"model": model, "params": params}) as response:
        return (await response.json())["ws_url"] + "?token=test-key"


def session_of(url):
    """Return the session's id in the URL of its socket."""
    return urlsplit(url).path.rpartition("/")[2]


async def session_info(http, session_id):
    """Return what the server says of a session."""
    async with http.get(f"/v1/sessions/{session_id}") as response:
        assert response.status == 200
        return await response.json()


async def delete_session(http, session_id):
    """Delete a session; return the status."""
    async with http.delete(f"/v1/sessions/{session_id}") as response:
        return response.status


async def infer(http, model="fake-detect", image=PNG, **params):
    """POST a picture; return the status."""
    query = {"model": model, **{name: str(value) for name, value in params.items()}}
    headers = {"Content-Type": "image/png"}
    async with http.post("/v1/infer", params=query, data=image, headers=headers) as response:
        await response.read()
        return response.status


async def model_state(http, model):
    """Return a model's state."""
    async with http.get(f"/v1/models/{model}") as response:
        return (await response.json())["state"]


async def metric(http, name):
    """Return the sum of a metric's samples."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name
    )


async def eventually(check, within=20.0):
    """Wait until the coroutine function ``check`` returns something true; return it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not (found := await check()):
        assert loop.time() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.02)
    return found


async def no_connection(http):
    """Wait until no socket is connected."""

    async def check():
        return await metric(http, "mataserver_sessions_connected") == 0

    await eventually(check)


async def closed_with(ws):
    """Read an aiohttp socket to its closing message; return the code."""
    while (message := await ws.receive(timeout=20)).type is not aiohttp.WSMsgType.CLOSE:
        assert message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}
    return message.data


def stream_tasks():
    """Return the tasks of connections that run in this process."""
    names = ("Channel.", "Connection.", "Viewer.")
    return [t for t in asyncio.all_tasks() if t.get_coro().__qualname__.startswith(names)]


def frame(opcode, payload=b"", *, fin=True, rsv=0):
    """Return one masked WebSocket frame."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head + mask + masked


def _upgrade(parts):
    """Return the request for the upgrade."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {parts.path}?{parts.query} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    ]
    return "\r\n".join([*lines, "", ""])


class RawPeer:
    """A client that reads and writes nothing but what the test says, pongs included."""

    def __init__(self, sock):
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._sending = asyncio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, url, *, receive_buffer=None, at_once=b"", change=("", ""), status=101):
        """Connect and ask for the upgrade.

        ``receive_buffer`` bytes make a small TCP window; ``at_once`` is sent with the request, in
        which ``change`` replaces a text; ``status`` is the expected answer.
        """
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        peer = cls(sock)
        with sock:
            parts = urlsplit(url)
            await peer._loop.sock_connect(sock, (parts.hostname, parts.port))
            await peer.send(_upgrade(parts).replace(*change).encode() + at_once)
            while b"\r\n\r\n" not in peer._buffer:
                assert await peer._fill()
            head, _, peer._buffer = peer._buffer.partition(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status}".encode()), head
            yield peer

    async def send(self, data):
        """Write bytes; waits while the server reads nothing."""
        async with asyncio.timeout(20), self._sending:
            await self._loop.sock_sendall(self._sock, data)

    def reset(self):
        """Vanish with a reset (RST) instead of an end (FIN)."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def receive(self):
        """Return the next frame as opcode and payload; None at the end of the connection."""
        head = await self._take(2)
        if head is None:
            return None
        size = head[1]
        if size >= 126:
            more = await self._take(2 if size == 126 else 8)
            size = int.from_bytes(more, "big")
        return head[0] & 15, await self._take(size)

    async def close_code(self):
        """Read on to the closing message; return its code, None at an abrupt end."""
        while (received := await self.receive()) is not None:
            if received[0] == CLOSE:
                return int.from_bytes(received[1][:2], "big")
        return None

    async def rest(self):
        """Read to the end; return how many bytes came."""
        count = len(self._buffer)
        self._buffer = b""
        while await self._fill():
            count += len(self._buffer)
            self._buffer = b""
        return count

    def abort(self):
        """Vanish: the connection is reset, not closed."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def _take(self, count):
        while len(self._buffer) < count:
            if not await self._fill():
                return None
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _fill(self):
        try:
            async with asyncio.timeout(20):
                data = await self._loop.sock_recv(self._sock, 65_536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)


class Gate:
    """Lets a model in this process answer, one permit an inference."""

    def __init__(self):
        self._permits = threading.Semaphore(0)
        self.sizes = []
        self.entered = 0
        self.load_fails = False

    def open(self, count=1):
        """Let ``count`` inferences go on."""
        self._permits.release(count)

    async def inside(self, count=1):
        """Wait until ``count`` inferences have begun."""

        async def check():
            return self.entered >= count

        await eventually(check)

    def pass_through(self, image):
        """Wait for a permit, in the model's thread."""
        self.entered += 1
        self.sizes.append(image.shape[1])
        if not self._permits.acquire(timeout=30):
            raise RuntimeError("nobody opened the gate")


class GatedModel(testing.FakeModel):
    """The fake model, behind the gate of its class."""

    gate = Gate()

    def predict(self, images, params):
        """Answer each image once the gate is open."""
        for image in images:
            self.gate.pass_through(image)
        return super().predict(images, params)


def load_gated(spec, context):
    """Load a gated model, unless the gate says that loads fail."""
    if GatedModel.gate.load_fails:
        raise RuntimeError("secret detail at /some/path")
    return GatedModel(spec, testing.FakeSettings())


def load_fragile(spec, context):
    """Load a fake tracker; end the process if the data directory says so."""
    if (context.data_dir / LOADS_EXIT).exists():
        os._exit(5)
    return testing.FakeTracker(spec, testing.FakeSettings())


class GatedPlugin:
    """Two backends: the model behind the gate, and one whose loads may come to kill its worker."""

    @hookimpl
    def backends(self):
        """Return the backends."""
        loads = {"gated": ("detect", load_gated), "fragile": ("track", load_fragile)}
        return [
            Backend(name=name, task=task, source="pip", load=load, params=testing.FakeParams)
            for name, (task, load) in loads.items()
        ]


gated = GatedPlugin()
GATED = importlib.metadata.EntryPoint("gated", "stream_peers:gated", plugins.GROUP)


@contextlib.asynccontextmanager
async def gated_server(data_dir, **settings):
    """Run a server that has the gated model besides the fakes; yield it and a new gate."""
    GatedModel.gate = gate = Gate()
    register(data_dir, {f"fake-{task}": task for task in FAKES} | GATED_MODELS)
    chosen = {"engine": "thread", "entry_points": (testing.FAKE, GATED)} | settings
    async with testing.serving(data_dir, **chosen) as served:
        yield served, gate


@contextlib.asynccontextmanager
async def behind_gate(data_dir, **settings):
    """Run a server with the gated model; yield an HTTP session and the gate, opened at the end."""
    async with (
        gated_server(data_dir, **settings) as (served, gate),
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        try:
            yield http, gate
        finally:
            gate.open(1000)


_SERVER = """
import asyncio, json, sys
from pathlib import Path
import uvloop
from mataserver import logs, testing
from mataserver.http import stream
settings = json.loads(sys.argv[2])
stream.DEPARTURE = settings.pop("departure", stream.DEPARTURE)
async def main():
    async with testing.serving(
        Path(sys.argv[1]),
        entry_points=(testing.FAKE, *testing.installed(*sys.argv[3:])),
        **settings,
    ) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()
logs.configure("info", "text")
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@dataclass(frozen=True, slots=True)
class Apart:
    """A server in a process of its own, on the event loop that ``mataserver serve`` uses."""

    url: str
    process: psutil.Process
    log: Path

    def http(self):
        """Return an HTTP session that carries the key."""
        return aiohttp.ClientSession(self.url, headers={"Authorization": "Bearer test-key"})

    def memory(self):
        """Return the resident bytes of the server."""
        return self.process.memory_info().rss

    def descriptors(self):
        """Return how many file descriptors the server holds."""
        return self.process.num_fds()


@contextlib.contextmanager
def server_apart(folder, *guests, **settings):
    """Run a server with the fake models, and these plugins, in another process.

    ``departure`` among the settings is that of ``stream``. Fail if it logged a traceback.
    """
    register(folder, {f"fake-{task}": task for task in FAKES})
    log = folder / "server.log"
    command = [sys.executable, "-c", _SERVER, str(folder), json.dumps(settings), *guests]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield Apart(process.stdout.readline().strip(), psutil.Process(process.pid), log)
            assert process.poll() is None, "the server died"
        finally:
            process.kill()
    assert "Traceback" not in log.read_text(), log.read_text()
