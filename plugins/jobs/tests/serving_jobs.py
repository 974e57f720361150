"""A server with jobs and the lab's kinds, and what the tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import time

import aiohttp

from mataserver.testing import FAKE, installed, serving

GROUP = "mataserver"
SMALL = {"min_free_mb": 0}


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


class Asking:
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

    async def count(self, to, **more):
        """Submit a job that counts; return its id."""
        status, job = await self("POST", "/lab/count", json={"to": to}, **more)
        assert status == 202, job
        return job["id"]


@contextlib.asynccontextmanager
async def asking(data_dir, *, jobs=(), database=(), key="test-key", **settings):
    """Run a server and ask it."""
    register(data_dir)
    chosen = {"jobs": {**SMALL, **dict(jobs)}, "database": dict(database)}
    keys = {"api_keys": ["test-key"], "engine": "thread"}
    options = {"drain_timeout": 2.0, **keys, "plugins": chosen, **settings}
    async with (
        serving(data_dir, entry_points=points(), **options) as served,
        session(served, key) as asked,
    ):
        yield asked


@contextlib.asynccontextmanager
async def session(served, key):
    """Ask a running server with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(served.url, headers=headers) as http:
        yield Asking(served, http)
