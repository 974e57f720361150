"""Fixtures: servers with a fleet on a database of each kind, and what the tests ask them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from mataserver.testing import FAKE, installed, serving
from mataserver_database.fixtures import postgres, url
from mataserver_fleet.commands import fleet

__all__ = ["client", "fleets", "postgres", "run", "serve", "url"]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)

from fleet_client import Client  # noqa: E402 - found by the path above
from stand_in_fleet import fleets  # noqa: E402


@pytest.fixture
def serve(url, tmp_path):
    """Return what runs a server with a fleet on the test's database and gives a ``Client``."""

    @contextlib.asynccontextmanager
    async def run(*, fleet=None, points=(), **settings):
        plugins = {"fleet": fleet or {}, **({"database": {"url": url}} if url else {})}
        entry_points = [FAKE, *installed("database", "accounts", "fleet"), *points]
        given = {"engine": "thread", "plugins": plugins, "outbound_hosts": ["127.0.0.1", "::1"]}
        async with (
            serving(tmp_path, entry_points=entry_points, **{**given, **settings}) as served,
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
        ):
            yield Client(http, served)

    return run


@pytest.fixture
async def client(serve):
    """A client of a server with a fleet."""
    async with serve() as made:
        yield made


@pytest.fixture
def run(client):
    """Return what runs a command in this process; it gives status, output and the refusal."""
    where = ["--url", client.server.url, "--api-key", client.server.key]

    async def run(*arguments):
        done = await asyncio.to_thread(CliRunner().invoke, fleet, [*arguments, *where])
        refusal = "" if done.exception is None else str(done.exception)
        return done.exit_code, done.stdout, refusal

    return run
