"""A soak: mixed load on a real server for as long as you like, and whether anything leaks.

``python bench/soak.py [SECONDS]`` (default 600) starts ``mataserver serve`` with the models that
need no download, and asks for everything at once: REST in every form, steady and reckless streams,
bad input, clients that vanish, that read nothing, that break the protocol. Every answer is checked.
It prints memory over time, then a verdict: ``SOAK PASSED`` when every answer was as it should be,
memory stayed flat, every gauge came back to zero and the server stopped cleanly.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import psutil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

PICTURE = (Path(__file__).parents[1] / "examples" / "pictures" / "codes.jpg").read_bytes()
KEY = "soak"
MODEL = "opencv-qr"
OTHER = "opencv-faces"
SAMPLE_EVERY = 5.0
WARM_UP = 0.25  # of the time: until then memory may grow
GROWTH = 8e6  # bytes that memory may grow from the first third of the rest to the last
GAUGES = ("sessions", "sessions_connected", "queue_length", "body_bytes_in_flight")


class Tally:
    """What happened: how often each kind of exchange went well, and what did not."""

    def __init__(self) -> None:
        self.good: collections.Counter[str] = collections.Counter()
        self.bad: collections.Counter[str] = collections.Counter()

    def expect(self, kind: str, got: object, wanted: object) -> None:
        """Count an exchange; it went well if ``got`` is ``wanted``."""
        if got == wanted:
            self.good[kind] += 1
        else:
            self.bad[f"{kind}: {got!r}, not {wanted!r}"[:200]] += 1


class Client:
    """One kind of client after the other, each method one exchange with the server."""

    def __init__(self, http: aiohttp.ClientSession, tally: Tally) -> None:
        self.http = http
        self.tally = tally

    # REST

    async def ask(self, kind: str, wanted: int, path: str = "/v1/infer", **what: Any) -> bytes:
        """POST something; expect a status."""
        async with self.http.post(path, **what) as response:
            body = await response.read()
            self.tally.expect(kind, response.status, wanted)
            return body

    async def infer(self) -> None:
        """Infer in every form that the API has."""
        query = {"params": {"model": random.choice((MODEL, MODEL, OTHER))}}
        image = {"headers": {"Content-Type": "image/jpeg"}, "data": PICTURE}
        await self.ask("raw", 200, **query, **image)
        encoded = base64.b64encode(PICTURE).decode()
        body = await self.ask("json", 200, json={"model": MODEL, "image": encoded})
        self.tally.expect("found", len(json.loads(body).get("detections", ())) > 0, wanted=True)
        form = aiohttp.FormData({"model": MODEL})
        form.add_field("file", PICTURE, filename="codes.jpg")
        await self.ask("upload", 200, "/v1/infer/upload", data=form)
        headers = {**image["headers"], "Accept": "application/msgpack"}
        packed = await self.ask("msgpack", 200, **query, headers=headers, data=PICTURE)
        self.tally.expect("packed", "detections" in msgspec.msgpack.decode(packed), wanted=True)
        await asyncio.sleep(0.05)

    async def bad_requests(self) -> None:
        """Ask for what cannot be had."""
        headers = {"Content-Type": "image/jpeg"}
        query = {"model": MODEL}
        await self.ask("no picture", 400, params=query, headers=headers, data=b"no picture")
        await self.ask("cut off", 400, params=query, headers=headers, data=PICTURE[:20_000])
        await self.ask("no model", 404, params={"model": "x"}, headers=headers, data=PICTURE)
        image = base64.b64encode(PICTURE).decode()
        body = {"model": MODEL, "image": image, "params": {"confidence": 2}}
        await self.ask("bad value", 422, json=body)
        await self.ask("no JSON", 400, headers={"Content-Type": "application/json"}, data=b"{")
        await self.ask("too large", 413, params=query, headers=headers, data=bytes(3_000_000))
        async with self.http.get("/v1/models", headers={"Authorization": "Bearer no"}) as response:
            self.tally.expect("bad key", response.status, 403)
        await asyncio.sleep(0.2)

    async def hang_up(self) -> None:
        """Begin a request and go away."""
        asking = asyncio.create_task(self.infer())
        await asyncio.sleep(random.uniform(0.0, 0.02))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        self.tally.good["hung up"] += 1
        await asyncio.sleep(0.1)

    async def reload(self) -> None:
        """Unload a model that others use, and let them load it again."""
        await self.ask("unload", 200, "/v1/models/unload", json={"model": OTHER})
        await self.ask("warm up", 200, "/v1/models/warmup", json={"model": OTHER})
        await asyncio.sleep(10.0)

    # streams

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[str]:
        """Create a session, delete it at the end; yield its path."""
        body = await self.ask("session", 201, "/v1/sessions", json={"model": MODEL})
        session_id = json.loads(body)["session_id"]
        try:
            yield f"/v1/stream/{session_id}"
        finally:
            async with self.http.delete(f"/v1/sessions/{session_id}") as response:
                self.tally.expect("delete", response.status, 204)

    async def steady_stream(self) -> None:
        """Stream one frame at a time, over several connections; no frame may be lost."""
        numbers = itertools.count()
        async with self.session() as path:
            for _ in range(3):
                await self.reconnected(path)
                async with self.http.ws_connect(path) as ws:
                    for _ in range(20):
                        await ws.send_bytes(PICTURE)
                        answer = await ws.receive_json(timeout=60)
                        got = (answer.get("frame_id"), answer.get("dropped"), answer.get("type"))
                        self.tally.expect("frame", got, (next(numbers), 0, None))
                        await asyncio.sleep(0.03)

    async def reckless_stream(self) -> None:
        """Send frames as fast as they go and read what comes: answers come in order."""
        async with self.session() as path, self.http.ws_connect(path) as ws:
            for _ in range(100):
                await ws.send_bytes(PICTURE)
            newest = -1
            while newest < 99:
                answer = await ws.receive_json(timeout=60)
                self.tally.expect("in order", answer["frame_id"] > newest, wanted=True)
                newest = answer["frame_id"]
            answered = 100 - answer["dropped"]
            self.tally.expect("some dropped", 0 < answered <= 100, wanted=True)
        await asyncio.sleep(0.5)

    async def bad_stream(self) -> None:
        """Send what is no frame; the stream goes on."""
        async with self.session() as path, self.http.ws_connect(path) as ws:
            for bad in (b"", b"no picture", PICTURE[:20_000], os.urandom(50_000)):
                await ws.send_bytes(bad)
                self.tally.expect("bad frame", (await ws.receive_json(timeout=60))["type"], "error")
            for text, kind in (("?", "error"), ('{"type": "ping"}', "pong")):
                await ws.send_str(text)
                self.tally.expect("text", (await ws.receive_json(timeout=60))["type"], kind)
            await ws.send_bytes(PICTURE)
            self.tally.expect("goes on", (await ws.receive_json(timeout=60))["frame_id"], 4)
            await self.closed("too large", ws, 1009, bytes(3_000_000))
        await asyncio.sleep(0.3)

    async def strangers(self) -> None:
        """Connect where one may not."""
        await self.refused("no session", "/v1/stream/sess_000000000000", 4004)
        await self.refused("wrong key", "/v1/stream/sess_000000000000?token=no", 4001)
        async with self.session() as path, self.http.ws_connect(path):
            await self.refused("second socket", path, 1008)
        await asyncio.sleep(0.3)

    async def vanisher(self) -> None:
        """Send a frame and reset the connection."""
        async with self.session() as path:
            async with self.http.ws_connect(path) as ws:
                await ws.send_bytes(PICTURE)
                await asyncio.sleep(random.uniform(0.0, 0.03))
                connection = ws._conn  # noqa: SLF001 - there is no public way to vanish
                if connection is not None and connection.transport is not None:
                    connection.transport.abort()
            await self.reconnected(path)
            self.tally.good["vanished"] += 1
        await asyncio.sleep(0.2)

    async def sleeper(self) -> None:
        """Send frames for a while and read nothing, then everything."""
        async with self.session() as path, self.http.ws_connect(path, autoping=False) as ws:
            for _ in range(30):
                await ws.send_bytes(PICTURE)
                await asyncio.sleep(0.05)
            newest, pings = -1, 0
            while newest < 29:
                message = await ws.receive(timeout=60)
                if message.type is aiohttp.WSMsgType.PING:
                    pings += 1
                    await ws.pong(message.data)
                else:
                    newest = json.loads(message.data)["frame_id"]
            self.tally.expect("woke up", (newest, pings <= 6), (29, True))

    async def reconnected(self, path: str) -> None:
        """Wait until the server has noticed that the last connection is gone."""
        url = path.replace("/stream/", "/sessions/")
        for _ in range(200):
            async with self.http.get(url) as response:
                if not json.loads(await response.read())["connected"]:
                    return
            await asyncio.sleep(0.05)
        self.tally.bad["a connection stayed"] += 1

    async def refused(self, kind: str, path: str, code: int) -> None:
        """Expect a connection to be closed at once with a code."""
        async with self.http.ws_connect(path) as ws:
            self.tally.expect(kind, (await ws.receive(timeout=60)).data, code)

    async def closed(
        self, kind: str, ws: aiohttp.ClientWebSocketResponse, code: int, data: bytes
    ) -> None:
        """Send something that closes the connection; expect the code."""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            await ws.send_bytes(data)
        while (message := await ws.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
            pass
        self.tally.expect(kind, message.data, code)


async def repeat(act: Callable[[], Awaitable[None]], tally: Tally, until: float) -> None:
    """Do the same again until the time is over; what it raises is an error like others."""
    while time.monotonic() < until:
        try:
            await act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the soak goes on and tells
            tally.bad[f"{act.__name__}: {type(error).__name__}: {error}"[:200]] += 1
            await asyncio.sleep(0.5)


class Memory:
    """Samples of the server's memory."""

    def __init__(self, server: psutil.Process) -> None:
        self.server = server
        self.begun = time.monotonic()
        self.times: list[float] = []
        self.own: list[int] = []
        self.workers: list[int] = []

    def sample(self, tally: Tally) -> None:
        """Take a sample and print it."""
        workers = [_rss(process) for process in self.server.children(recursive=True)]
        self.times.append(time.monotonic() - self.begun)
        self.own.append(self.server.memory_info().rss)
        self.workers.append(max(workers))
        each = " ".join(f"{memory / 1e6:.1f}" for memory in workers)
        print(
            f"{self.times[-1]:6.0f} s  server {self.own[-1] / 1e6:6.1f} MB  "
            f"zygote and workers {each} MB  descriptors {self.server.num_fds():3d}  "
            f"good {tally.good.total():7d}  bad {tally.bad.total():4d}",
            flush=True,
        )

    async def watch(self, tally: Tally, until: float) -> None:
        """Sample until the time is over."""
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_EVERY)
            self.sample(tally)

    def growth(self, values: list[int]) -> tuple[float, float]:
        """Return bytes a minute and bytes in all: the last third after warm-up less the first."""
        first = int(len(values) * WARM_UP)
        times, values = self.times[first:], values[first:]
        third = len(values) // 3
        if not third:
            return 0.0, 0.0
        grown = statistics.median(values[-third:]) - statistics.median(values[:third])
        apart = statistics.mean(times[-third:]) - statistics.mean(times[:third])
        return grown / apart * 60, grown


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server on a free port; yield its process and URL."""
    settings = {"DATA_DIR": folder, "API_KEYS": KEY, "MAX_BODY_MB": 2, "MAX_SESSIONS": 50}
    environment = {**os.environ, **{f"MATA_SERVER_{k}": str(v) for k, v in settings.items()}}
    command = [sys.executable, "-m", "mataserver", "serve", "--port", "0"]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            cwd=folder,
        ) as server,
    ):
        assert server.stdout is not None
        try:
            url = next(word for line in server.stdout for word in line.split() if "://" in word)
            yield server, url.partition("/#")[0].rstrip("/")
        finally:
            server.kill()


async def gauges(http: aiohttp.ClientSession) -> dict[str, float]:
    """Return the gauges that must be zero when nobody asks for anything."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    found: dict[str, float] = dict.fromkeys(GAUGES, 0.0)
    for line in lines:
        name = line.split("{")[0].split(" ")[0].removeprefix("mataserver_")
        if name in found:
            found[name] += float(line.split()[-1])
    return found


async def load(url: str, server: psutil.Process, seconds: float) -> tuple[Tally, Memory]:
    """Put the load on the server; return what happened."""
    tally, until = Tally(), time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(url, headers=headers) as http:
        client = Client(http, tally)
        await client.infer()
        memory = Memory(server)
        memory.sample(tally)
        idle = server.num_fds()
        acts = [client.infer, client.infer, client.bad_requests, client.hang_up, client.reload]
        acts += [client.steady_stream, client.steady_stream, client.reckless_stream]
        acts += [client.bad_stream, client.strangers, client.vanisher, client.sleeper]
        await asyncio.gather(memory.watch(tally, until), *(repeat(a, tally, until) for a in acts))
        await http.connector.close() if http.connector else None
    async with aiohttp.ClientSession(url, headers=headers) as http:
        await asyncio.sleep(4.0)
        for name, value in (await gauges(http)).items():
            tally.expect(f"gauge {name}", value, 0.0)
        tally.expect("descriptors back", server.num_fds() <= idle + 2, wanted=True)
        memory.sample(tally)
    return tally, memory


def verdict(tally: Tally, memory: Memory, log: str, status: int) -> bool:
    """Print what came of it; return whether all is well."""
    print("\ngood:", ", ".join(f"{kind} {count}" for kind, count in sorted(tally.good.items())))
    for kind, count in tally.bad.most_common(20):
        print(f"bad:  {count} x {kind}")
    flat = True
    for name, values in (("server", memory.own), ("largest worker", memory.workers)):
        slope, grown = memory.growth(values)
        flat = flat and grown < GROWTH
        print(f"{name}: {slope / 1e6:+.2f} MB a minute, {grown / 1e6:+.1f} MB after warm-up")
    faults = log.count("Traceback")
    print(f"tracebacks in the log: {faults}; exit status after SIGTERM: {status}")
    good = flat and not tally.bad and not faults and status == 0
    reasons = f"memory {'flat' if flat else 'GROWS'}, {tally.bad.total()} errors"
    print(f"{'SOAK PASSED' if good else 'SOAK FAILED'}: {reasons}, {tally.good.total()} exchanges")
    return good


def main() -> int:
    """Run the soak; return 0 if it passed."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder) as (server, url):
            tally, memory = asyncio.run(load(url, psutil.Process(server.pid), seconds))
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=60)
        log = (folder / "server.log").read_text()
        good = verdict(tally, memory, log, status)
        if not good:
            print("\n".join(log.splitlines()[-40:]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
