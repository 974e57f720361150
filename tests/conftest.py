"""Fixtures of the core's tests: a server on a real socket, with the fake plugin's models."""

from __future__ import annotations

import io
import json
import signal
import time

import aiohttp
import pytest
from PIL import Image

from browser_pages import Browser
from failure_names import pytest_configure
from mataserver import testing
from openapi_watch import documented_answers

__all__ = ["documented_answers", "pytest_configure"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a script starts what it puts behind it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' children inherit it

PROTOCOLS = ("oip", "openai")
"""The plugins whose protocols are part of every usual installation."""
POINTS = (testing.FAKE, *testing.installed(*PROTOCOLS))
"""The entry points of the fake models and of these plugins."""
FAKES = ("classify", "depth", "detect", "ocr", "pose", "segment", "track", "vlm")


def picture(width=64, height=48, box=(10, 8, 30, 28), form="PNG", **options) -> bytes:
    """Return an encoded grey picture with one red box."""
    image = Image.new("RGB", (width, height), (60, 60, 60))
    image.paste((255, 0, 0), box)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def register(data_dir, models) -> None:
    """Write a registry file with ``models``: name to task, source pip."""
    entries = {
        name: {"task": task, "source": "pip", "pulled_at": time.time()}
        for name, task in models.items()
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "model_registry.json").write_text(json.dumps({"version": 1, "models": entries}))


@pytest.fixture
def png():
    """An encoded picture of 64x48 with a red box at (10, 8, 30, 28)."""
    return picture()


@pytest.fixture
def data_dir(tmp_path):
    """A data directory in which every fake model is registered."""
    register(tmp_path, {f"fake-{task}": task for task in FAKES})
    return tmp_path


@pytest.fixture
async def server(data_dir):
    """A server with the fake models in threads, which are fast to load, and every protocol."""
    async with testing.serving(data_dir, entry_points=POINTS, engine="thread") as served:
        yield served


@pytest.fixture
async def http(server):
    """An HTTP session that carries the server's key."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as session:
        yield session


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A video of 10 frames at 25 a second."""
    from camera_sources import make_video

    return make_video(tmp_path_factory.mktemp("videos") / "shelf.mp4")


@pytest.fixture(scope="module", autouse=True)
def _browsers():
    """Tests of a module share a browser; those of others count the children of their process."""
    yield
    Browser.end()
