"""A disk that is full, at every step of an upload and of a job: a real one, of a few megabytes.

What is under way is refused or fails with the reason, the server lives, nothing is served by half,
and once there is room everything goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from films import video
from serving_jobs import JobsClient, lines, sent

FRAMES = 250
TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream"}

FULL = "The disk is full; restart the job once there is room"


def namespace():
    """Return the command that gives a process mounts of its own, as root or as anybody."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]


MOUNT = ["mount", "-t", "tmpfs", "-o", "size=1m", "none"]
pytestmark = [
    pytest.mark.skipif(
        subprocess.run([*namespace(), *MOUNT, "/mnt"], capture_output=True, check=False).returncode
        != 0,
        reason="this system lets nobody mount a disk of their own",
    ),
    pytest.mark.long,
]


class Disk:
    """The disk of a server: it is filled by the server's process, which alone sees it."""

    def __init__(self, process):
        self._process = process

    async def fill(self, leave=0):
        """Take all the room but some bytes."""
        await self._order(f"fill {leave}")

    async def fill_once(self, name):
        """Take all the room as soon as there is a file of a name."""
        await self._order(f"await {name}")

    async def free(self):
        """Give the room back."""
        await self._order("free")

    async def jobs(self):
        """Return how many processes of jobs there are."""
        return await self._order("jobs")

    async def files(self):
        """Return the names of all files, from the disk's root."""
        return await self._order("files")

    async def _order(self, line):
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(60):
            return json.loads(await self._process.stdout.readline())


@contextlib.asynccontextmanager
async def small(folder, megabytes=8):
    """Run a server whose data are on a small disk; give who asks it, and the disk."""
    folder.mkdir()
    script = Path(__file__).with_name("run_full_server.py")
    server = await asyncio.create_subprocess_exec(
        *(*namespace(), sys.executable, str(script), str(folder), str(megabytes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(script.parent)},
    )
    try:
        url = (await server.stdout.readline()).decode().strip()
        headers = {"Authorization": "Bearer test-key"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            yield JobsClient(None, http), Disk(server)
    finally:
        server.kill()
        await server.wait()


@pytest.fixture
async def small_disk(tmp_path):
    """A server on a disk of 8 MB."""
    async with small(tmp_path / "disk") as made:
        yield made


async def until_left(disk, count):
    """Wait until so many processes of jobs are left."""
    async with asyncio.timeout(60):
        while await disk.jobs() > count:
            await asyncio.sleep(0.1)


async def begun(ask, length):
    """Begin an upload; return its path."""
    headers = {**TUS, "Upload-Length": str(length)}
    async with ask.session.post("/v1/uploads", headers=headers) as response:
        assert response.status == 201, await response.text()
        return "/v1/uploads/" + response.headers["Location"].rpartition("/")[2]


async def offset(ask, path):
    """Return where an upload goes on."""
    async with ask.session.head(path, headers=TUS) as response:
        assert response.status == 200
        return int(response.headers["Upload-Offset"])


async def test_an_upload(small_disk, tmp_path):
    """A part that the disk has no room for is 507; what arrived stays, and it goes on later."""
    ask, disk = small_disk
    data = video(tmp_path / "v.mp4", FRAMES).read_bytes() + bytes(900_000)
    path = await begun(ask, len(data))
    await disk.fill(leave=100_000)
    headers = {**PART, "Upload-Offset": "0"}
    status, told = await ask("PATCH", path, data=data, headers=headers)
    assert (status, told) == (507, {"detail": "The disk is full"})
    at = await offset(ask, path)
    assert 0 < at < len(data)
    begin = {**TUS, "Upload-Length": "5000000"}
    assert (await ask("POST", "/v1/uploads", headers=begin))[0] == 507
    await disk.free()
    headers = {**PART, "Upload-Offset": str(at)}
    assert (await ask("PATCH", path, data=data[at:], headers=headers))[0] == 204
    asked = {"model": "fake-detect", "upload": path.rpartition("/")[2], "annotate": False}
    await disk.fill()
    status, told = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 507, told
    await disk.free()
    status, job = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 202, job
    assert (await ask.ended(job["id"]))["result"]["items"] == FRAMES


async def test_a_file_that_is_sent_with_its_job(small_disk, tmp_path):
    """A request whose file finds no room is 507 and leaves neither a job nor a file."""
    ask, disk = small_disk
    await disk.fill(leave=100_000)
    form = aiohttp.FormData({"model": "fake-detect"})
    form.add_field("file", bytes(1_000_000), filename="v.mp4")
    status, told = await ask("POST", "/v1/jobs/infer", data=form)
    assert (status, told) == (507, {"detail": "The disk is full"})
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0
    assert not [name for name in await disk.files() if name.startswith("jobs/")]


async def names(ask, job):
    """Assert that a job's files are whole ones, and return their names."""
    _, listed = await ask("GET", f"/v1/jobs/{job}/files")
    found = {each["name"] for each in listed["files"]}
    if "results.jsonl" in found:
        answers = await lines(ask, job)
        assert [line["index"] for line in answers] == list(range(len(answers)))
    if "summary.json" in found:
        _, told = await ask("GET", f"/v1/jobs/{job}/files/summary.json")
        assert told["items"] == FRAMES
    return found


async def again(ask, job):
    """Run a job once more; assert that it is done and whole."""
    status, told = await ask("POST", f"/v1/jobs/{job}/restart", json={"spec": {"params": {}}})
    assert status == 202, told
    assert (await ask.ended(job))["result"]["items"] == FRAMES
    assert await names(ask, job) == {"results.jsonl", "summary.json", "annotated.mp4"}


async def test_what_runs_and_what_waits(small_disk, tmp_path):
    """A job that finds no room has failed with the reason; one that waits is done later.

    The database stands on the same disk: it takes nothing meanwhile, and is told the end after.
    """
    ask, disk = small_disk
    path = video(tmp_path / "v.mp4", FRAMES)
    hook = {"url": "http://127.0.0.1:9/nobody"}
    assert (await ask("POST", "/v1/webhooks", json=hook))[0] == 201
    job = await sent(ask, path, model="fake-detect", params='{"seconds": 0.1}')
    waits = await sent(ask, path, model="fake-detect", annotate="false")
    await ask.until(job, lambda shown: shown["progress"] > 2)
    await disk.fill()
    assert (await ask("POST", "/v1/webhooks", json=hook))[0] == 507
    await ask.until(job, lambda shown: shown["state"] == "running")
    await until_left(disk, 0)
    assert (await ask("GET", f"/v1/jobs/{waits}"))[1]["state"] == "queued"
    await disk.free()
    shown = await ask.ended(job)
    assert (shown["state"], shown["error"], shown["attempt"]) == ("failed", FULL, 1)
    assert await names(ask, job) == {"results.jsonl"}
    assert (await ask.ended(waits))["result"]["items"] == FRAMES
    _, told = await ask.until_listed("/v1/webhooks", lambda page: page["webhooks"][0]["last_at"])
    assert "does not answer" in told["webhooks"][0]["last_error"]
    await again(ask, job)


async def test_a_process_that_dies_of_it(small_disk):
    """It costs one attempt, and its owner is told why: another one would die as well."""
    ask, disk = small_disk
    _, job = await ask("POST", "/lab/misbehave", json={"how": "fill"})
    shown = await ask.ended(job["id"])
    assert (shown["state"], shown["error"], shown["attempt"]) == ("failed", FULL, 1)
    await disk.free()


async def test_a_video_that_is_drawn(small_disk, tmp_path):
    """A disk that fills while the video is drawn fails the job; there is no video by half."""
    ask, disk = small_disk
    job = await sent(ask, video(tmp_path / "v.mp4", FRAMES), model="fake-detect")
    await disk.fill_once("film")
    await until_left(disk, 0)
    await disk.free()
    shown = await ask.ended(job)
    assert (shown["state"], shown["error"], shown["attempt"]) == ("failed", FULL, 1)
    assert await names(ask, job) == {"results.jsonl", "summary.json"}
    await again(ask, job)
