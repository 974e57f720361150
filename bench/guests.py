"""What a soak does beside REST and streams: cameras, pulls, crashes, jobs."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import av
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from soak import Client

FAULTY = """
[mataserver]
faulty = faulty
"""
METADATA = "Metadata-Version: 2.1\nName: faulty\nVersion: 0\n"
CONFIGURATION = """
models: [{{model: faulty, task: detect}}]
plugins: {{jobs: {{min_free_mb: 0}}, cameras: {{camera_paths: ["{folder}"]}}}}
"""


def prepare(folder: Path) -> Path:
    """Write the configuration and a film; return where the plugin that crashes is found."""
    (folder / "mataserver.yaml").write_text(CONFIGURATION.format(folder=folder))
    packages = folder / "packages"
    info = packages / "faulty-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(FAULTY)
    film(folder / "film.mp4")
    return packages


def film(path: Path) -> None:
    """Write a video of two seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 320, 240
        for number in range(50):
            pixels = np.full((240, 320, 3), number * 5, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


class Guests:
    """One kind of guest after the other."""

    def __init__(self, client: Client, folder: Path, picture: bytes) -> None:
        self._client = client
        self._http = client.http
        self._expect = client.tally.expect
        self._film = str(folder / "film.mp4")
        self._footage = (folder / "film.mp4").read_bytes()
        self._picture = picture

    async def camera(self) -> None:
        """Watch a camera for some frames, then leave it, and take it away."""
        asked = {"model": "opencv-qr", "source": self._film}
        status, body = await self._json("POST", "/v1/sessions", json=asked)
        self._expect("camera", status, 201)
        path = f"/v1/stream/{body['session_id']}"
        async with self._http.ws_connect(path) as ws:
            for _ in range(10):
                answer = await ws.receive_json(timeout=60)
                self._expect("filmed", "detections" in answer, wanted=True)
        async with self._http.delete(path.replace("/stream/", "/sessions/")) as response:
            self._expect("camera deleted", response.status, 204)
        await asyncio.sleep(2.0)

    async def pull(self) -> None:
        """Pull from a hub that nobody reaches, and a model that is here."""
        asked = {"model": "nobody/nothing", "task": "detect"}
        status, body = await self._json("POST", "/v1/models/pull", json=asked)
        self._expect("hub away", (status, list(body)), (400, ["detail"]))
        asked = {"model": "opencv-qr", "task": "detect"}
        status, _ = await self._json("POST", "/v1/models/pull", json=asked)
        self._expect("pull", status, 202)
        await asyncio.sleep(3.0)

    async def crash(self) -> None:
        """Have a worker die with a request, and another answer the next."""
        for end, wanted in (("exit", 500), ("segfault", 500), ("well", 200)):
            query = {"model": "faulty", "end": end}
            headers = {"Content-Type": "image/jpeg"}
            async with self._http.post(
                "/v1/infer", params=query, data=self._picture, headers=headers
            ) as response:
                await response.read()
                # Who died three times in a row is not loaded for a while.
                held = response.status == 503 and "Retry-After" in response.headers
                self._expect(f"crash {end}", wanted if held else response.status, wanted)
            await asyncio.sleep(5.0)

    async def job(self) -> None:
        """Have a film answered by a job, fetch its file, and take it away."""
        form = aiohttp.FormData({"model": "opencv-qr"})
        form.add_field("file", self._footage, filename="film.mp4")
        status, job = await self._json("POST", "/v1/jobs/infer", data=form)
        self._expect("job", status, 202)
        path = f"/v1/jobs/{job['id']}"
        while job["finished_at"] is None:
            await asyncio.sleep(0.2)
            _, job = await self._json("GET", path)
        self._expect("job done", job["state"], "done")
        async with self._http.get(f"{path}/files/results.jsonl") as response:
            self._expect(
                "job's file", (response.status, len(await response.read()) > 0), (200, True)
            )
        async with self._http.delete(path) as response:
            self._expect("job deleted", response.status, 204)
        await asyncio.sleep(1.0)

    async def _json(self, method: str, path: str, **what: Any) -> tuple[int, dict[str, Any]]:
        async with self._http.request(method, path, **what) as response:
            return response.status, json.loads(await response.read())
