"""pytest fixtures: a server and its client, which end with the test.

They build on pytest-aiohttp, and come with ``pip install mataserver[testing]``: see
``mataserver.pytest_plugin``. Tests that need a separate process start the command instead.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from importlib.metadata import EntryPoint
    from pathlib import Path

    from aiohttp.test_utils import TestClient, TestServer
    from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer

    from mataserver.app.server import ComposedServer
    from mataserver.testing import Served

# ``mataserver`` is imported late: pytest loads this module in every project of an environment.


class MataServer(Protocol):
    """Starts a server that ends with the test."""

    async def __call__(self, *plugins: str | EntryPoint, **settings: Any) -> Served:
        """Serve ``plugins``, by name or by entry point, and the fake models.

        ``settings`` are those of ``serving``.
        """


class MataClient(Protocol):
    """Starts a server and returns a client with its key."""

    async def __call__(
        self, *plugins: str | EntryPoint, server: Served | None = None, **settings: Any
    ) -> TestClient[Any, Any]:
        """Return a client of ``server``, or of one that is started as ``mata_server`` would."""


@pytest.fixture
def mata_data_dir(tmp_path: Path) -> Path:
    """The data directory of ``mata_server``."""
    return tmp_path / "mataserver"


@pytest.fixture
def fake_models(mata_data_dir: Path) -> tuple[str, ...]:
    """Register the fake models, ``fake-<task>`` for each task; their names."""
    from mataserver.testing.fakes import TASKS

    models = {
        f"fake-{task}": {"task": task, "source": "pip", "pulled_at": time.time()} for task in TASKS
    }
    mata_data_dir.mkdir(parents=True, exist_ok=True)
    registry = mata_data_dir / "model_registry.json"
    registry.write_text(json.dumps({"version": 1, "models": models}), encoding="utf-8")
    return tuple(models)


@pytest.fixture
def _mata_started() -> dict[str, TestServer]:
    """Map the test's server URLs to their test servers."""
    return {}


@pytest_asyncio.fixture
async def mata_server(
    aiohttp_server: AiohttpServer, mata_data_dir: Path, _mata_started: dict[str, TestServer]
) -> AsyncIterator[MataServer]:
    """Start servers that end with the test; see ``MataServer``."""
    from mataserver.app import running
    from mataserver.testing import FAKE, Served, installed
    from mataserver.testing.serving import compose

    started: list[tuple[TestServer, ComposedServer]] = []

    async def start(*plugins: str | EntryPoint, **settings: Any) -> Served:
        points = [FAKE]
        for each in plugins:
            points += installed(each) if isinstance(each, str) else [each]
        values = {"data_dir": mata_data_dir, **settings}
        composed, key = compose(entry_points=points, **values)
        server = await aiohttp_server(composed.application, **running.CONNECTION_OPTIONS)
        running.set_address(composed, server.host, server.port or 0)
        if server.runner is not None:
            composed.in_process.accept = server.runner.server
        started.append((server, composed))
        url = str(server.make_url("/")).rstrip("/")
        _mata_started[url] = server
        return Served(url, key, composed)

    yield start
    for server, composed in started:
        if server.runner is not None:
            await running.drain(server.runner, composed)


@pytest_asyncio.fixture
async def mata_client(
    aiohttp_client: AiohttpClient,
    mata_server: MataServer,
    _mata_started: dict[str, TestServer],
) -> MataClient:
    """Connect to servers, with their key; see ``MataClient``."""

    async def connect(
        *plugins: str | EntryPoint, server: Served | None = None, **settings: Any
    ) -> TestClient[Any, Any]:
        served = server or await mata_server(*plugins, **settings)
        return await aiohttp_client(_mata_started[served.url], headers=served.headers)

    return connect
