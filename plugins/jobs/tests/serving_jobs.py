"""A server with jobs and the lab's kinds, and what the tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import aiohttp
import psutil

from mataserver.testing import FAKE, installed, serving

GROUP = "mataserver"
SMALL = {"min_free_mb": 0}
KEYS = [
    {"key": "root-key", "name": "root"},
    *(
        {"key": f"{name}-key", "name": name, "scopes": ["infer", "jobs:read", "jobs:write"]}
        for name in ("ada", "bob")
    ),
    {"key": "reader-key", "name": "reader", "scopes": ["jobs:read"]},
    {"key": "camera-key", "name": "camera", "scopes": ["infer"]},
]
"""Of an administrator, two who have jobs, one who reads, one who infers."""


def points():
    """Return the entry points of a server with jobs."""
    lab = importlib.metadata.EntryPoint("lab", "lab_plugin", GROUP)
    return [FAKE, *installed("database", "jobs"), lab]


def register(data_dir):
    """Have the fake models registered."""
    tasks = ("classify", "detect", "track", "depth")
    entries = {
        f"fake-{task}": {"task": task, "source": "pip", "pulled_at": time.time()} for task in tasks
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "model_registry.json").write_text(json.dumps({"version": 1, "models": entries}))


class JobsClient:
    """Asks a server with one key."""

    def __init__(self, served, session):
        self.served = served
        self.session = session

    async def __call__(self, method, path, **more):
        """Return status and decoded answer."""
        async with self.session.request(method, path, **more) as response:
            body = await response.read()
            plain = response.content_type != "application/json"
            return response.status, body if plain else json.loads(body)

    async def ended(self, job, seconds=40.0):
        """Wait for a job's end; return it."""
        async with asyncio.timeout(seconds):
            while True:
                _, shown = await self("GET", f"/v1/jobs/{job}")
                if shown["finished_at"] is not None:
                    return shown
                await asyncio.sleep(0.05)

    async def until(self, job, true, seconds=30.0):
        """Wait until a job is as wanted; return it."""
        async with asyncio.timeout(seconds):
            while True:
                _, shown = await self("GET", f"/v1/jobs/{job}")
                if true(shown):
                    return shown
                await asyncio.sleep(0.02)

    async def until_listed(self, path, true, seconds=10.0):
        """Wait until a page is as wanted; return status and page."""
        async with asyncio.timeout(seconds):
            while True:
                status, page = await self("GET", path)
                if true(page):
                    return status, page
                await asyncio.sleep(0.02)

    async def count(self, to, **more):
        """Submit a job that counts; return its id."""
        status, job = await self("POST", "/lab/count", json={"to": to}, **more)
        assert status == 202, job
        return job["id"]


@contextlib.asynccontextmanager
async def asking(data_dir, *, jobs=(), database=(), guests=(), key="test-key", **settings):
    """Run a server, perhaps with more plugins, and ask it."""
    register(data_dir)
    chosen = {"jobs": {**SMALL, **dict(jobs)}, "database": dict(database)}
    keys = {"api_keys": ["test-key"], "engine": "thread"}
    options = {"drain_timeout": 2.0, **keys, "plugins": chosen, **settings}
    async with (
        serving(data_dir, entry_points=[*points(), *installed(*guests)], **options) as served,
        session(served, key) as asked,
    ):
        yield asked


@contextlib.asynccontextmanager
async def session(served, key):
    """Ask a running server with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(served.url, headers=headers) as http:
        yield JobsClient(served, http)


@contextlib.asynccontextmanager
async def apart(folder, slots=1):
    """Run a server in a process of its own, which is killed at the end."""
    script = Path(__file__).with_name("run_server.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(folder), str(slots)),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        url = (await server.stdout.readline()).decode().strip()
        headers = {"Authorization": "Bearer test-key"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            yield JobsClient(None, http)
    finally:
        server.kill()
        await server.wait()


async def sent(ask, path, **fields):
    """Send a file; return the job."""
    form = aiohttp.FormData({name: str(value) for name, value in fields.items()})
    form.add_field("file", path.read_bytes(), filename=path.name)
    status, job = await ask("POST", "/v1/jobs/infer", data=form)
    assert status == 202, job
    return job["id"]


async def lines(ask, job):
    """Return the answers of a job."""
    _, text = await ask("GET", f"/v1/jobs/{job}/files/results.jsonl")
    return [json.loads(line) for line in text.splitlines()]


def children_of_jobs():
    """Return the processes of jobs."""
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # also one that has ended: a zombie
            if "mataserver_jobs.child" in " ".join(each.cmdline()):
                found.append(each)
    return found
