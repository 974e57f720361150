"""No password, hash, key or token is told: every route and command of accounts and jobs is asked.

All that was answered, logged, printed, written to files and kept in the database is looked through.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re

import aiohttp
import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from films import video
from serving_jobs import SMALL, register

from mataserver import cli
from mataserver.testing import FAKE, installed, serving
from mataserver_accounts import commands as of_accounts
from mataserver_database import Database
from mataserver_database.testing import new_database
from mataserver_jobs import commands as of_jobs

pytestmark = pytest.mark.long

SERVER_KEY = "the-servers-own-key-of-this-test"
PASSWORDS = ("Tr0ub4dor", "c0rrect-h0rse", "b4ttery-st4ple", "0f-the-c0mmand", "0f-the-r00t")
FIRST, SECOND, THIRD, TYPED, ROOTS = PASSWORDS
TUS = {"Tus-Resumable": "1.0.0"}
PASS = re.compile(r"job_[\w-]{40,}")
JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
HASH = re.compile(r"argon2id\$")


class Run:
    """Asks a server and runs commands, and keeps what came of it.

    ``said`` is everything but the answers whose purpose is to tell a secret this once; these are in
    ``secrets``, each with what of it may be kept in the database.
    """

    def __init__(self, http, served, variables):
        self._http, self.served = http, served
        self._runner = CliRunner(env=variables)
        self.said, self.secrets, self.asked, self.ran = [], [], set(), set()
        self.token = ""

    async def ask(self, method, template, *, who=None, secret=None, headers=None, **more):
        """Ask a route; return the decoded answer. ``secret`` names the field that tells one."""
        places = {name: more.pop(name) for name in ("id", "user", "key", "name") if name in more}
        self.asked.add((method.lower(), template))
        given = {"Authorization": f"Bearer {who or self.token}", **(headers or {})}
        url = self.served.url + template.format(**places)
        async with self._http.request(method, url, headers=given, **more) as response:
            text = await response.text(errors="replace")
            self.said.append(str(dict(response.headers)))
            if secret is None or response.status >= 400:
                self.said.append(text)
            else:
                self.secrets.append((await response.json())[secret])
            assert response.status < 500, text
            is_json = response.content_type == "application/json"
            return await response.json() if is_json else text

    async def command(self, *arguments, typed="", secret=False):
        """Run a command; return what it printed."""
        names = [each for each in arguments if not str(each).startswith("-")]
        self.ran.add(tuple(names[: 1 if names[0] == "passwd" else 2]))
        given = list(map(str, arguments))
        result = await asyncio.to_thread(self._runner.invoke, cli.cli, given, input=typed)
        assert result.exit_code in {0, 1}, result.output
        if secret:
            self.secrets.append(result.stdout.strip())
        else:
            self.said.append(result.output)
        return result.stdout.strip()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The URL of a database: None for SQLite."""
    if request.param == "sqlite":
        return None
    server = request.getfixturevalue("postgres")
    return asyncio.run(new_database(server, f"secrets_{os.getpid()}"))


@pytest.fixture
async def run(tmp_path, url):
    """A server with accounts and jobs on a database of each kind."""
    variables = {"MATA_SERVER_DATA_DIR": str(tmp_path), "MATA_SERVER_API_KEY": SERVER_KEY}
    variables |= {"DATABASE_URL": url} if url else {}
    register(tmp_path)
    plugins = {"jobs": SMALL, "database": {"url": url} if url else {}}
    async with (
        serving(
            tmp_path,
            entry_points=[FAKE, *installed("database", "accounts", "jobs")],
            plugins=plugins,
            api_keys=[SERVER_KEY],
            engine="thread",
            outbound_hosts=["127.0.0.1"],
            log_level="debug",
        ) as served,
        aiohttp.ClientSession() as http,
    ):
        yield Run(http, served, variables)


async def ask_accounts(run):
    """Ask every route of accounts, rightly and wrongly."""
    await run.command("users", "add", "root", "--role", "admin", typed=f"{ROOTS}\n")
    log_in = {"username": "root", "password": ROOTS}
    wrong = {**log_in, "password": FIRST}
    run.token = (await run.ask("POST", "/auth/token", secret="access_token", json=log_in))[
        "access_token"
    ]
    async with asyncio.timeout(5):
        while "id" not in await run.ask("GET", "/v1/me"):  # the server follows within a second
            await asyncio.sleep(0.1)
    await run.ask("POST", "/auth/token", json=wrong)
    await run.ask("POST", "/auth/token", secret="access_token", data=log_in)
    new = {"name": "ada", "password": FIRST, "role": "developer"}
    ada = await run.ask("POST", "/v1/users", json=new)
    await run.ask("POST", "/v1/users", json=new)  # 409
    await run.ask("POST", "/v1/users", json={**new, "role": "king"})  # 422
    await run.ask("GET", "/v1/users")
    await run.ask("GET", "/v1/users/{user}", user="ada")
    await run.ask("PATCH", "/v1/users/{user}", user=ada["id"], json={"password": SECOND})
    hers = {"username": "ada", "password": SECOND}
    token = await run.ask("POST", "/auth/token", secret="access_token", json=hers)
    change = {"current": SECOND, "new": THIRD}
    who = token["access_token"]
    path = "/v1/me/password"
    await run.ask("PUT", path, who=who, json={**change, "current": FIRST})
    token = await run.ask("PUT", path, who=who, secret="access_token", json=change)
    who = token["access_token"]
    key = await run.ask("POST", "/v1/keys", who=who, secret="key", json={"name": "k"})
    await run.ask("GET", "/v1/keys", who=who)
    await run.ask("GET", "/v1/keys/{key}", key=key["id"], who=who)
    await run.ask("GET", "/v1/me", who=key["key"])
    await run.ask("GET", "/v1/me", who=key["key"] + "x")
    await run.ask("DELETE", "/v1/keys/{key}", key=key["id"], who=who)
    await run.ask("DELETE", "/auth/token", who=who)
    await run.ask("POST", "/v1/users", json={**new, "name": "eve"})
    await run.ask("DELETE", "/v1/users/{user}", user="eve")
    for path in ("/metrics", "/ready", "/health", "/v1/plugins", "/v1/models"):
        await run.ask("GET", path)


async def ask_jobs(run, path):
    """Ask every route of jobs; a job runs to its end with a webhook."""
    hook = {"url": f"{run.served.url}/nothing"}
    hook = await run.ask("POST", "/v1/webhooks", secret="secret", json=hook)
    await run.ask("GET", "/v1/webhooks")
    data = path.read_bytes()
    await run.ask("OPTIONS", "/v1/uploads")
    begin = {**TUS, "Upload-Length": str(len(data))}
    await run.ask("POST", "/v1/uploads", headers=begin)
    (place,) = set(re.findall(r"/v1/uploads/([0-9a-f-]{36})", "".join(run.said)))
    part = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    await run.ask("PATCH", "/v1/uploads/{id}", id=place, headers=part, data=data)
    await run.ask("HEAD", "/v1/uploads/{id}", id=place, headers=TUS)
    asked = {"model": "fake-detect", "upload": place}
    await run.ask("POST", "/v1/jobs/infer/check", json={"model": "fake-detect"})
    job = (await run.ask("POST", "/v1/jobs/infer", json=asked))["id"]
    for name in ("", "/events", "/log", "/files"):
        await run.ask("GET", f"/v1/jobs/{{id}}{name}", id=job)
    await run.ask("GET", "/v1/jobs/{id}/files/{name}", id=job, name="results.jsonl")
    await run.ask("GET", "/v1/jobs")
    await run.ask("POST", "/v1/jobs/{id}/restart", id=job)
    await run.ask("POST", "/v1/jobs/{id}/cancel", id=job)
    await run.ask("GET", "/v1/jobs/{id}/events", id=job)
    await run.ask("DELETE", "/v1/jobs/{id}", id=job)
    await run.ask("DELETE", "/v1/uploads/{id}", id=place, headers=TUS)
    await run.ask("DELETE", "/v1/webhooks/{id}", id=hook["id"])
    await run.ask("POST", "/v1/webhooks", secret="secret", json={"url": hook["url"]})


async def run_commands(run, path, folder):
    """Run every command of accounts and jobs."""
    await run.command("users", "add", "bob", typed=f"{FIRST}\n")
    await run.command("users", "list")
    await run.command("users", "passwd", "bob", typed=f"{SECOND}\n")
    await run.command("users", "disable", "bob")
    await run.command("users", "enable", "bob")
    at = ("--url", run.served.url)
    async with asyncio.timeout(10):  # the server follows within a second
        while (await run.command("passwd", "bob", *at, typed=f"{SECOND}\n{TYPED}\n")) == "":
            await asyncio.sleep(0.3)
    await run.command("passwd", "bob", *at, typed=f"{SECOND}\n{TYPED}\n")  # refused
    await run.command("users", "rm", "bob")
    await run.command("keys", "add", "k", "--scope", "infer", secret=True)
    listed = await run.command("keys", "list")
    await run.command("keys", "rm", listed.split("\t")[0])
    await run.command("keys", "add", "k", "--scope", "infer", "--owner", "ada", secret=True)
    job = await run.command("jobs", "infer", "fake-detect", path, *at)
    await run.command("jobs", "infer", "fake-detect", path, "--wait", *at)
    for name in ("list", "show", "log", "cancel", "restart", "get"):
        more = [folder] if name == "get" else []
        await run.command("jobs", name, *([] if name == "list" else [job]), *more, *at)
    await run.command("jobs", "infer", "fake-detect", path, "--wait", *at)
    await run.command("jobs", "rm", job, *at)


async def kept(url, folder):
    """Return all that is in the database, as text."""
    if url is None:
        return "".join(
            path.read_bytes().decode("latin-1") for path in folder.glob("mataserver.db*")
        )
    database = Database(folder, url)
    async with database.read() as connection:
        tables = await connection.run_sync(lambda plain: sa.inspect(plain).get_table_names())
        rows = [
            row
            for table in tables
            for row in (await connection.execute(sa.text(f'SELECT * FROM "{table}"'))).all()
        ]
    await database.close()
    return "\n".join(map(str, rows))


async def test_nothing_is_told(run, tmp_path, url, caplog):
    """Secrets are where they must be, which is nowhere but for digests and signing keys."""
    caplog.set_level(logging.DEBUG)
    path = video(tmp_path / "v.mp4", 5)
    await ask_accounts(run)
    await ask_jobs(run, path)
    await run_commands(run, path, tmp_path / "got")
    database = await kept(url, tmp_path)
    files = "".join(
        path.read_bytes().decode("latin-1")
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.startswith("mataserver.db")
    )
    assert "made the user ada" in caplog.text
    told = "\n".join([*run.said, caplog.text, files])
    keys = [secret for secret in run.secrets if secret.startswith("mata_")]
    tokens = [secret for secret in run.secrets if JWT.fullmatch(secret)]
    hooks = [secret for secret in run.secrets if secret.startswith("whsec_")]
    assert (len(keys), len(tokens), len(hooks)) == (3, 4, 2)
    assert not set(run.secrets) - {*keys, *tokens, *hooks}
    nowhere = [*PASSWORDS, SERVER_KEY, *keys, *tokens]
    nowhere += [hashlib.sha256(each.encode()).hexdigest() for each in (SERVER_KEY, *PASSWORDS)]
    for secret in nowhere:
        assert secret not in told + database
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    for secret in (*hooks, *digests):
        assert secret not in told
    assert HASH.search(database)
    for form in (HASH, PASS, JWT):
        assert not form.search(told), form
    assert not PASS.search(database)
    assert await left_out(run) == (set(), set())


async def left_out(run):
    """Return the routes and the commands of the two plugins that were not asked."""
    document = await run.ask("GET", "/openapi.json")
    routes = {
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if {"accounts", "jobs"} & set(operation["tags"])
    }
    commands = {("passwd",)}
    for module in (of_accounts, of_jobs):
        for value in vars(module).values():
            if isinstance(value, click.Group):
                commands |= {(value.name, name) for name in value.commands}
    return routes - run.asked, commands - run.ran
