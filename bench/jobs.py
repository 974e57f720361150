"""What a running job costs the live requests: their 95th percentile with one and without.

Run as ``python bench/jobs.py [SECONDS]`` (default 10, the length of a block). A client asks a
model, and again a tenth of a second after each answer, in blocks that alternate: no job, a job with
another model, a job with the same one. The jobs look at a video of 640x480. The whole is one run on
one server; compare its ratios and not its milliseconds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from aiohttp import ClientSession

from mataserver.testing import installed, serving

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = 0.1
ROUNDS = 4
GOAL = 1.5
LIVE, OTHER = "opencv-qr", "opencv-faces"
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "codes.jpg"
KINDS = ("no job", f"a job with {OTHER}", f"a job with {LIVE}")


def film(path: Path, frames: int = 3000) -> Path:
    """Write a video of 640x480 in which something moves."""
    ground = np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)
    ground = ground.repeat(10, axis=0).repeat(10, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number in range(frames):
            pixels = np.ascontiguousarray(np.roll(ground, number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


class Load:
    """Asks, and a while after the answer again."""

    def __init__(self, http: ClientSession) -> None:
        self._http = http
        self._picture = PICTURE.read_bytes()

    async def once(self) -> float:
        """Ask; return the seconds that it took."""
        begun, kind = time.perf_counter(), {"Content-Type": "image/jpeg"}
        async with self._http.post(
            f"/v1/infer?model={LIVE}", data=self._picture, headers=kind
        ) as answer:
            await answer.read()
            if answer.status != 200:
                raise SystemExit(f"answered {answer.status}")
        return time.perf_counter() - begun

    async def block(self, seconds: float) -> list[float]:
        """Ask for some time; return what each answer took."""
        begun, found = time.monotonic(), []
        while time.monotonic() < begun + seconds:
            found.append(await self.once())
            await asyncio.sleep(PAUSE)
        return found


class Work:
    """A job that runs while the block does."""

    def __init__(self, http: ClientSession, video: Path) -> None:
        self._http = http
        self._video = video

    async def begin(self, model: str) -> str:
        """Start a job; return its id once it asks the model."""
        asked = {"model": model, "path": str(self._video)}
        async with self._http.post("/v1/jobs/infer", json=asked) as answer:
            job = (await answer.json())["id"]
        await self._until(job, lambda shown: shown["progress"] > 1.0)
        return str(job)

    async def end(self, job: str) -> float:
        """Stop a job; return how many frames a second it got through."""
        shown = await self._shown(job)
        if shown["state"] != "running":
            raise SystemExit(f"the job has ended too soon: {shown['message']}")
        done = int(shown["message"].split()[0])
        async with self._http.post(f"/v1/jobs/{job}/cancel"):
            pass
        await self._until(job, lambda shown: shown["state"] != "running")
        return done / (time.time() - float(shown["started_at"]))

    async def _until(self, job: str, true: Callable[[dict[str, Any]], bool]) -> None:
        for _ in range(300):
            if true(await self._shown(job)):
                return
            await asyncio.sleep(0.1)
        raise SystemExit("the job does not get on")

    async def _shown(self, job: str) -> dict[str, Any]:
        async with self._http.get(f"/v1/jobs/{job}") as answer:
            found: dict[str, Any] = await answer.json()
            return found


async def measured(seconds: float, folder: Path) -> dict[str, list[float]]:
    """Run all blocks; return the seconds of every answer, by what ran beside them."""
    video = await asyncio.to_thread(film, folder / "film.mp4")
    points = installed("database", "jobs", "opencv")
    plugins = {"jobs": {"roots": [str(folder)], "min_free_mb": 0}}
    models = [{"model": name, "task": "detect", "keep_alive": -1} for name in (LIVE, OTHER)]
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with (
        serving(folder / "data", entry_points=points, plugins=plugins, models=models) as served,
        ClientSession(served.url, headers=served.headers) as http,
    ):
        load, work = Load(http), Work(http, video)
        await load.block(3.0)
        for _ in range(ROUNDS):
            for kind in KINDS:
                job = await work.begin(kind.split()[-1]) if kind != KINDS[0] else None
                found[kind] += await load.block(seconds)
                if job is not None:
                    print(f"  {kind}: {await work.end(job):.1f} frames a second", flush=True)
    return found


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def main() -> None:
    """Measure and print; fail above the goal."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measured(seconds, Path(folder)))
    alone = found[KINDS[0]]
    print("| beside | median, ms | ratio | p95, ms | ratio |\n|---|---|---|---|---|")
    for kind, values in found.items():
        middle, high = statistics.median(values), p95(values)
        print(
            f"| {kind} | {middle * 1e3:.1f} | {middle / statistics.median(alone):.2f} "
            f"| {high * 1e3:.1f} | {high / p95(alone):.2f} |"
        )
    worst = max(p95(values) for values in found.values()) / p95(alone)
    sys.exit(f"p95 is {worst:.2f} times what it is alone" if worst > GOAL else 0)


if __name__ == "__main__":
    main()
