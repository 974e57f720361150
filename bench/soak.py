"""A soak: mixed load on a real server for as long as you like, and whether anything leaks.

``python bench/soak.py [SECONDS]`` (default 600) starts ``mataserver serve`` with the models that
need no download, and asks for everything at once: REST in every form, steady and reckless streams,
cameras, pulls, jobs, workers that crash, bad input, clients that vanish, that read nothing, that
break the protocol. Every answer is checked. It prints what could grow over time, then a verdict:
``SOAK PASSED`` when every answer was as it should be, neither memory, descriptors, processes, files
nor the log grew, every gauge came back to zero and the server stopped cleanly.
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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import psutil

import guests
from growth import SAMPLE_EVERY, Growth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

PICTURE = (Path(__file__).parents[1] / "examples" / "pictures" / "codes.jpg").read_bytes()
KEY = "soak"
MODEL = "opencv-qr"
OTHER = "opencv-faces"
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
        query: dict[str, Any] = {"params": {"model": random.choice((MODEL, MODEL, OTHER))}}
        image: dict[str, Any] = {"headers": {"Content-Type": "image/jpeg"}, "data": PICTURE}
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
        wrong = {"Authorization": "Bearer no"}
        await self.refused("wrong key", "/v1/stream/sess_000000000000", 4001, wrong)
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

    async def refused(
        self, kind: str, path: str, code: int, headers: dict[str, str] | None = None
    ) -> None:
        """Expect a connection to be closed at once with a code."""
        async with self.http.ws_connect(path, headers=headers) as ws:
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


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server on a free port; yield its process and URL."""
    settings = {"DATA_DIR": folder / "data", "API_KEYS": KEY, "MAX_BODY_MB": 2, "MAX_SESSIONS": 50}
    environment = {**os.environ, **{f"MATA_SERVER_{k}": str(v) for k, v in settings.items()}}
    path = [str(guests.prepare(folder)), str(Path(__file__).parent)]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    (folder / "temporary").mkdir()
    environment |= {"TMPDIR": str(folder / "temporary"), "HF_ENDPOINT": "http://127.0.0.1:9"}
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


async def watch(growth: Growth, tally: Tally, until: float) -> None:
    """Sample until the time is over."""
    while time.monotonic() < until:
        await asyncio.sleep(SAMPLE_EVERY)
        await asyncio.to_thread(growth.sample, tally)


async def load(
    url: str, server: psutil.Process, folder: Path, seconds: float
) -> tuple[Tally, Growth]:
    """Put the load on the server; return what happened."""
    tally, until = Tally(), time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(url, headers=headers) as http:
        client = Client(http, tally)
        await client.infer()
        growth = Growth(server, folder)
        growth.sample(tally)
        idle = growth.now()
        acts = [client.infer, client.infer, client.bad_requests, client.hang_up, client.reload]
        acts += [client.steady_stream, client.steady_stream, client.reckless_stream]
        acts += [client.bad_stream, client.strangers, client.vanisher, client.sleeper]
        others = guests.Guests(client, folder, PICTURE)
        acts += [others.camera, others.pull, others.crash, others.job]
        await asyncio.gather(watch(growth, tally, until), *(repeat(a, tally, until) for a in acts))
        await http.connector.close() if http.connector else None
    async with aiohttp.ClientSession(url, headers=headers) as http:
        await asyncio.sleep(4.0)
        left = growth.now()
        for name, value in (await gauges(http)).items():
            tally.expect(f"gauge {name}", value, 0.0)
        # The second model's worker and the plugins' zygotes came with the load, and stay.
        tally.expect(
            "descriptors back", left["descriptors"] <= idle["descriptors"] + 12, wanted=True
        )
        tally.expect("processes back", left["processes"] <= idle["processes"] + 6, wanted=True)
        growth.sample(tally)
    return tally, growth


def verdict(tally: Tally, growth: Growth, log: str, status: int) -> bool:
    """Print what came of it; return whether all is well."""
    print("\ngood:", ", ".join(f"{kind} {count}" for kind, count in sorted(tally.good.items())))
    for kind, count in tally.bad.most_common(20):
        print(f"bad:  {count} x {kind}")
    grows = growth.verdict(log)
    faults = log.count("Traceback")
    print(f"tracebacks in the log: {faults}; exit status after SIGTERM: {status}")
    good = not grows and not tally.bad and not faults and status == 0
    reasons = f"{'nothing grows' if not grows else 'GROWS: ' + ', '.join(grows)}"
    reasons += f", {tally.bad.total()} errors, {tally.good.total()} exchanges"
    print(f"{'SOAK PASSED' if good else 'SOAK FAILED'}: {reasons}")
    return good


def main() -> int:
    """Run the soak; return 0 if it passed."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder) as (server, url):
            tally, growth = asyncio.run(load(url, psutil.Process(server.pid), folder, seconds))
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=60)
        log = (folder / "server.log").read_text()
        good = verdict(tally, growth, log, status)
        if not good:
            print("\n".join(log.splitlines()[-40:]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
