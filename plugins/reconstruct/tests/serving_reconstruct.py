"""A server with reconstruction, and what the tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import zipfile

import aiohttp

from mataserver.testing import installed, serving

PLUGINS = ("database", "accounts", "jobs", "reconstruct")
QUICK = {"max_size": "640", "max_keypoints": "1024"}
EVERY = ["infer", "models:read", "jobs:read", "jobs:write"]
KEYS = [
    {"key": "root-key", "name": "root"},
    *({"key": f"{name}-key", "name": name, "scopes": EVERY} for name in ("ada", "bob")),
    {"key": "reader-key", "name": "reader", "scopes": ["jobs:read"]},
]


def options(*, reconstruct=(), jobs=(), database=(), accounts=(), **others):
    """Return the settings of a server; ``others`` are those that no plugin has."""
    chosen = {
        "jobs": {"min_free_mb": 0, **dict(jobs)},
        "database": dict(database),
        "accounts": dict(accounts),
        "reconstruct": dict(reconstruct),
    }
    fixed = {"engine": "thread", "drain_timeout": 2.0, "api_keys": KEYS, "plugins": chosen}
    return fixed | others


def packed(files):
    """Return a ZIP of files, or of a folder's."""
    if not isinstance(files, dict):
        files = {path.name: path.read_bytes() for path in sorted(files.iterdir())}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


class Asking:
    """Asks a server with one key."""

    def __init__(self, served, http):
        self.served = served
        self.http = http
        self.headers = {}

    async def __call__(self, method, path, **more):
        """Return status and decoded answer."""
        async with self.http.request(method, path, **more) as response:
            self.headers = response.headers
            body = await response.read()
            plain = response.content_type != "application/json"
            return response.status, body if plain else json.loads(body)

    async def send(self, archive, path="/upload", query=None, headers=None, **fields):
        """Send an archive with fields in its form."""
        form = aiohttp.FormData()
        for name, value in fields.items():
            form.add_field(name, value)
        form.add_field(
            "file", io.BytesIO(archive), filename="photos.zip", content_type="application/zip"
        )
        return await self("POST", path, data=form, params=query or {}, headers=headers or {})

    async def upload(self, archive, **fields):
        """Send an archive; return the id of its job."""
        status, answer = await self.send(archive, **fields)
        assert status == 202, answer
        return answer["job_id"]

    async def ended(self, job, seconds=100.0):
        """Wait for the end of a job; return its status."""
        async with asyncio.timeout(seconds):
            while True:
                status, shown = await self("GET", f"/status/{job}")
                assert status == 200, shown
                if shown["finished_at"] is not None:
                    return shown
                await asyncio.sleep(0.05)

    async def ready(self, seconds=60.0):
        """Wait until the server is ready."""
        async with asyncio.timeout(seconds):
            while (await self("GET", "/ready"))[0] != 200:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def session(served, key):
    """Ask a running server with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(served.url, headers=headers) as http:
        yield Asking(served, http)


@contextlib.asynccontextmanager
async def asking(folder, key="ada-key", **chosen):
    """Run a server and ask it."""
    points = installed(*PLUGINS)
    async with (
        serving(folder, entry_points=points, **options(**chosen)) as served,
        session(served, key) as asked,
    ):
        yield asked
