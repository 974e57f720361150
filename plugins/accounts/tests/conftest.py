"""Fixtures: a database of each kind, accounts on it, servers with them, and a clock."""

from __future__ import annotations

import contextlib
import time
import uuid

import aiohttp
import pytest

from mataserver.testing import FAKE, installed, serving
from mataserver_accounts.passwords import Passwords
from mataserver_accounts.store import Accounts
from mataserver_accounts.tables import SCHEMA
from mataserver_database.fixtures import empty_database, postgres
from mataserver_database.testing import Template
from openapi_watch import documented_answers

__all__ = [
    "accounts",
    "client",
    "clock",
    "database",
    "documented_answers",
    "empty_database",
    "postgres",
    "serve",
    "url",
]


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """The clock of every part of a test."""
    return Clock()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with the tables of accounts."""
    return Template(tmp_path_factory.mktemp("template"), SCHEMA)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request, template):
    """Where the test's database is: None for SQLite in ``tmp_path``."""
    if request.param == "sqlite":
        return None
    return await template.database(request.getfixturevalue("postgres"), f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def database(empty_database):
    """A database with the tables of accounts."""
    await empty_database.migrate(SCHEMA)
    return empty_database


@pytest.fixture
def accounts(database, clock):
    """Users and keys."""
    return Accounts(database, Passwords(), clock)


class Client:
    """Asks a server; what it was answered is kept in ``said``."""

    def __init__(self, http, served, said):
        self._http, self.server, self.said = http, served, said

    async def ask(self, method, path, secret=None, **request):
        """Ask with a token or a key, by default the server's own; return status and answer."""
        headers = request.pop("headers", {})
        if secret != "":
            headers = {"Authorization": f"Bearer {secret or self.server.key}", **headers}
        url = f"{self.server.url}{path}"
        async with self._http.request(method, url, headers=headers, **request) as response:
            text = await response.text()
            self.said.append(text)
            self.headers = response.headers
            json = response.content_type == "application/json"
            return response.status, (await response.json() if json else text)

    async def user(self, name, role="developer", password="correct horse"):
        """Make a user; return the record and a token."""
        body = {"name": name, "password": password, "role": role}
        status, user = await self.ask("POST", "/v1/users", json=body)
        assert status == 201, user
        return user, await self.token(name, password)

    async def token(self, name, password="correct horse"):
        """Log in; return the token."""
        body = {"username": name, "password": password}
        status, answer = await self.ask("POST", "/auth/token", "", json=body)
        assert status == 200, answer
        return answer["access_token"]


@pytest.fixture
def serve(url, tmp_path, template):
    """Return what runs a server with accounts on the test's database and gives a ``Client``."""

    @contextlib.asynccontextmanager
    async def run(*, accounts=None, points=(), others=None, **settings):
        if url is None:
            await template.file(tmp_path)
        own = {"accounts": accounts or {}, **({"database": {"url": url}} if url else {})}
        plugins = {**(others or {}), **own}
        entry_points = [FAKE, *installed("database", "accounts"), *points]
        given = {"engine": "thread", "plugins": plugins, **settings}
        async with (
            serving(tmp_path, entry_points=entry_points, **given) as served,
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
        ):
            yield Client(http, served, [])

    return run


@pytest.fixture
async def client(serve):
    """A client of a server with accounts."""
    async with serve() as made:
        yield made
