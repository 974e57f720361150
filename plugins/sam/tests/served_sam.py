"""Servers with SAM, and requests of them."""

from __future__ import annotations

import base64

import aiohttp
import pytest
import pytest_asyncio

from mataserver.testing import installed, serving

SEGMENT = "/api/v1/image/segment"
CACHED = "/api/v1/image/cached-features"
DOG = {"type": "text", "text": "dog"}
POINT = {"type": "point", "points": [[0.3, 0.4]], "point_labels": [1]}


@pytest.fixture(name="start", scope="module")
def start_fixture(tmp_path_factory):
    """``start(checkpoint, **settings)`` is a server, not started yet, with a SAM behind its API."""

    def make(checkpoint, engine="thread", files=None, **settings):
        folder = tmp_path_factory.mktemp("server")
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        chosen = {**({"model": str(checkpoint)} if checkpoint else {}), **settings.pop("sam", {})}
        return serving(
            folder,
            entry_points=installed("sam"),
            engine=engine,
            threads=1,
            plugins={"sam": chosen},
            **settings,
        )

    return make


@pytest_asyncio.fixture(name="server", scope="module", loop_scope="module")
async def server_fixture(start, sam3_path):
    """A server with a tiny SAM3 in a process of its own."""
    async with start(sam3_path, engine="process") as served:
        yield served


@pytest_asyncio.fixture(name="http", scope="module", loop_scope="module")
async def http_fixture(server):
    """An HTTP session with the server's key."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as session:
        yield session


@pytest.fixture(name="image", scope="module")
def image_fixture(picture, png):
    """``image(seed)`` is an image in base64."""
    return lambda seed=0: base64.b64encode(png(picture(seed=seed))).decode()


async def post(http, path, body, **options):
    """Return status and decoded answer of a POST."""
    async with http.post(path, json=body, **options) as answer:
        return answer.status, await answer.json()


async def get(http, path):
    """Return status and decoded answer of a GET."""
    async with http.get(path) as answer:
        return answer.status, await answer.json()
