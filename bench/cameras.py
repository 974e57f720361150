"""What a camera costs: our server beside a pipe from ffmpeg, as Frigate reads its cameras.

Run as ``python bench/cameras.py [SECONDS]`` (default 5, the length of a measurement); the whole
takes three to four minutes. Cameras of 1920x1080 (H.264, 25 frames a second, 4 Mbit/s) come over
HTTP from a process of their own, and a model that does nothing gives 10 results a second for each:

- ours, without viewers and with one of each camera: the model takes images of 640x640;
- an ``ffmpeg`` for each camera (must be installed) whose raw frames a process reads into numpy:
  of 640x360, as Frigate detects in, and of 1920x1080, for whoever needs all pixels.

It prints two tables in Markdown. The CPU time is that of all processes of a way with two cameras,
the mean of the rounds in which each gave at least 9.5 results a second (on a busy machine there may
be none); the ways take turns. Streams a core are its inverse. Then ever more cameras are opened
until one of them gets fewer than 9.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import uvloop

import camera_source
import noop
from mataserver import plugins as plugin_host
from mataserver.testing import installed, serving
from mataserver.testing.serving import KEY
from tree import Tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

FPS, KEPT = 10, 9.5
ROUNDS, CAMERAS = 2, 2
SETTLE, START = 2.0, 60.0
HEADERS = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Way:
    """How cameras are read: by our server, or by ffmpeg to frames of ``size``."""

    name: str
    size: tuple[int, int] | None = None
    viewers: bool = False


WAYS = (
    Way("ours, nobody looks"),
    Way("ours, a viewer each", viewers=True),
    Way("ffmpeg to 640x360", (640, 360)),
    Way("ffmpeg to 1920x1080", (1920, 1080)),
)


@dataclass(frozen=True)
class Sample:
    """CPU seconds a stream and second, and the fewest results a second that a camera gave."""

    cpu: float
    rate: float


# Our way


async def serve(source: str, count: int) -> None:
    """Run our server with cameras."""
    points = [
        *installed("cameras"),
        importlib.metadata.EntryPoint("noop", "noop", plugin_host.GROUP),
    ]
    camera = {"source": source, "model": "scaled", "fps": FPS, "always": True}
    cameras = [{"name": f"camera{number}", **camera} for number in range(count)]
    models = [{"model": "scaled", "task": "detect", "keep_alive": -1}]
    with tempfile.TemporaryDirectory() as folder:
        async with serving(
            folder, entry_points=points, plugins={"cameras": {"cameras": cameras}}, models=models
        ) as served:
            print(served.url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


class Ours:
    """Our server, and those who look."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self._seen: list[int] = []

    async def cameras(self) -> list[dict[str, Any]]:
        """Return what the server says of its cameras."""
        async with self._http.get(self._url + "/v1/cameras") as answer:
            found: list[dict[str, Any]] = await answer.json()
            return found

    async def counts(self) -> list[int]:
        """Return the results of each camera, those that arrived if there are viewers."""
        return self._seen[:] or [camera["results"] for camera in await self.cameras()]

    async def look(self, place: int, url: str) -> None:
        """Count what arrives."""
        async with self._http.ws_connect(url) as socket:
            async for message in socket:
                self._seen[place] += "detections" in message.json()

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look at each camera until the context ends."""
        urls = [camera["ws_url"] for camera in await self.cameras()]
        self._seen = [0] * len(urls)
        tasks = [asyncio.create_task(self.look(*each)) for each in enumerate(urls)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# Frigate's way


def read(source: str, count: int, width: int, height: int) -> None:
    """Have an ffmpeg for each camera, and give its frames to the model; tell how many, if asked."""
    model, counts = noop.Noop("noop"), [0] * count
    command = ["ffmpeg", "-hide_banner", "-loglevel", "fatal", "-nostdin", "-threads", "2"]
    command += ["-i", source, "-r", str(FPS), "-s", f"{width}x{height}", "-threads", "2"]
    command += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:"]

    def watch(place: int) -> None:
        pipe = subprocess.Popen(command, stdout=subprocess.PIPE).stdout
        frame = np.empty((height * 3 // 2, width), np.uint8)
        assert pipe is not None
        while pipe.readinto(frame.data.cast("B")) == frame.size:  # type: ignore[attr-defined]
            model.predict([frame], [None])
            counts[place] += 1

    for place in range(count):
        threading.Thread(target=watch, args=(place,), daemon=True).start()
    print("begun", flush=True)
    for _ in sys.stdin:
        print(json.dumps(counts), flush=True)


# Measuring


@contextlib.contextmanager
def program(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run Python in a process of its own; yield it with its first line."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    tree = Tree(process.pid)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{arguments} has failed")
        yield process, line
    finally:
        tree.end()
        process.wait()


async def until_all(counts: Callable[[], Any], count: int) -> None:
    """Wait until so many cameras give results. Raises ``TimeoutError``."""
    async with asyncio.timeout(START):
        while len(found := await counts()) < count or not all(found):  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # other processes count


async def sample(
    process: subprocess.Popen[str], counts: Callable[[], Any], count: int, seconds: float
) -> Sample:
    """Wait until every camera gives results, then measure. Raises ``TimeoutError``."""
    await until_all(counts, count)
    await asyncio.sleep(SETTLE)
    tree, begun, before = Tree(process.pid), time.monotonic(), await counts()
    used = tree.cpu()
    await asyncio.sleep(seconds)
    used, lasted, after = tree.cpu() - used, time.monotonic() - begun, await counts()
    fewest = min(later - earlier for earlier, later in zip(before, after, strict=True))
    return Sample(used / lasted / count, fewest / lasted)


async def measured(way: Way, source: str, count: int, seconds: float) -> Sample:
    """Read cameras in one way; a rate of 0 if not all of them begin."""
    try:
        return await _measured(way, source, count, seconds)
    except TimeoutError:
        return Sample(0.0, 0.0)


async def _measured(way: Way, source: str, count: int, seconds: float) -> Sample:
    if way.size is not None:
        with program(__file__, "read", source, count, *way.size) as (process, _):

            async def told() -> list[int]:
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                found: list[int] = json.loads(process.stdout.readline())
                return found

            return await sample(process, told, count, seconds)
    with program(__file__, "serve", source, count) as (process, url):
        async with aiohttp.ClientSession(headers=HEADERS) as http:
            ours = Ours(http, url)
            await until_all(ours.counts, count)
            async with ours.looking() if way.viewers else contextlib.nullcontext():
                return await sample(process, ours.counts, count, seconds)


async def most(way: Way, source: str, seconds: float) -> tuple[int, list[str]]:
    """Return how many cameras a way keeps up with, and the fewest results a second by cameras."""
    kept, lost, count, rates = 0, 0, 4, []
    while True:
        found = await measured(way, source, count, seconds)
        rates.append(f"{count}: {found.rate:.1f}")
        kept, lost = (count, lost) if found.rate >= KEPT else (kept, count)
        if lost and lost - kept <= max(1, lost // 8):
            return kept, rates
        count = (kept + lost) // 2 if lost else 2 * count


def cost(samples: list[Sample]) -> str:
    """Return the cells of a way's row."""
    rate = min(each.rate for each in samples)
    kept = [each.cpu for each in samples if each.rate >= KEPT]
    if not kept:
        return f"not kept up | | {rate:.1f}"
    cpu = statistics.mean(kept)
    return f"{cpu * 1e3:.0f} | {1 / cpu:.1f} | {rate:.1f}"


async def main(seconds: float) -> None:
    """Measure and print."""
    ways = [way for way in WAYS if way.size is None or shutil.which("ffmpeg")]
    if len(ways) < len(WAYS):
        print("ffmpeg is not installed: only our server is measured")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run\n")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "camera.ts")
        await asyncio.to_thread(camera_source.make, video)
        with program(camera_source.__file__, video) as (_, source):
            samples: dict[Way, list[Sample]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way in ways:
                    samples[way].append(await measured(way, source, CAMERAS, seconds))
            print("| way | CPU a stream, ms/s | streams a core | results/s |\n|---|---|---|---|")
            for way, found in samples.items():
                print(f"| {way.name} | {cost(found)} |")
            print(
                "\n| way | cameras kept up with | cameras: results/s |\n|---|---|---|", flush=True
            )
            for way in ways[1:3]:
                kept, rates = await most(way, source, seconds)
                print(f"| {way.name} | {kept} | {', '.join(rates)} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at its end")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", source, count]:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(source, int(count)))
        case ["read", source, count, width, height]:
            read(source, int(count), int(width), int(height))
        case arguments:
            asyncio.run(main(float(arguments[0]) if arguments else 5.0))
