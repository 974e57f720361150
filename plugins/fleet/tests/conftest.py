"""Fixtures: servers with a fleet on a database of each kind, and what the tests ask them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from mataserver.testing import FAKE, installed, serving
from mataserver_accounts.tables import SCHEMA as ACCOUNTS
from mataserver_database.fixtures import postgres
from mataserver_database.testing import Template
from mataserver_fleet.commands import fleet
from mataserver_fleet.tables import SCHEMA as FLEET
from openapi_watch import documented_answers

__all__ = ["client", "documented_answers", "fleets", "postgres", "run", "serve", "url"]

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # behind all others, whose tests have a conftest too
    sys.path.append(HERE)

from fleet_client import Client  # noqa: E402 - found by the path above
from stand_in_fleet import fleets  # noqa: E402


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with the tables that a server with a fleet makes."""
    return Template(tmp_path_factory.mktemp("template"), ACCOUNTS, FLEET)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request, template):
    """Where the test's database is: None for SQLite in ``tmp_path``."""
    if request.param == "sqlite":
        return None
    return await template.database(request.getfixturevalue("postgres"), f"test_{uuid.uuid4().hex}")


@pytest.fixture
def serve(url, tmp_path, template):
    """Return what runs a server with a fleet on the test's database and gives a ``Client``."""

    @contextlib.asynccontextmanager
    async def run(*, fleet=None, points=(), **settings):
        if url is None:
            await template.file(tmp_path)
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
