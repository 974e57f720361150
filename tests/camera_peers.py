"""What the tests of cameras share: a server, sessions that film, and looks at what they give."""

from __future__ import annotations

import contextlib
import io

import aiohttp
import numpy as np
import psutil
from PIL import Image

from api_answers import problem
from mataserver import testing

PATH = "/v1/sessions"
POINTS = (testing.FAKE, *testing.installed("cameras"))
"""The entry points of the fake models and of cameras."""


@contextlib.asynccontextmanager
async def serving(data_dir, **settings):
    """Run a server that lets clients film this machine; yield an HTTP session."""
    given = {"camera_hosts": ["127.0.0.0/8"], "camera_timeout": 5.0} | settings
    own = {name: given.pop(name) for name in list(given) if name.startswith("camera")}
    async with (
        testing.serving(
            data_dir, entry_points=POINTS, engine="thread", plugins={"cameras": own}, **given
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def film(http, source, model="fake-detect", **body):
    """Create a session with a camera; return its id."""
    asked = {"model": model, "source": str(source), **body}
    async with http.post(PATH, json=asked) as response:
        assert response.status == 201, await response.text()
        return (await response.json())["session_id"]


async def results(ws, count):
    """Return the next results of a socket; errors are passed over."""
    found = []
    while len(found) < count:
        message = await ws.receive_json(timeout=30)
        if "type" not in message:
            found.append(message)
    return found


async def snapshot(http, name):
    """Return the snapshot of a session as an array, with its headers."""
    async with http.get(f"{PATH}/{name}/snapshot") as response:
        data = await response.read()
        assert response.status == 200, data
        assert response.content_type == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int), response.headers


async def told(http, status, path, method="GET"):
    """Ask for something that must be answered with the error ``status``; return the detail."""
    async with http.request(method, path) as response:
        return await problem(response, status)


def readers():
    """Return the processes of this server's cameras."""
    return [p for p in psutil.Process().children() if is_reader(p)]


def is_reader(process):
    """Whether a process reads a camera."""
    with contextlib.suppress(psutil.Error):
        return "mataserver_cameras.reader" in process.cmdline()
    return False


async def ready(http):
    """Whether the server is ready."""
    async with http.get("/ready") as response:
        return response.status == 200


def red(pixels):
    """Return where an array is red."""
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
