"""What a removed user and a revoked key leave: nothing goes on in the name of nobody."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

import pytest
from serving_jobs import asking, session

from mataserver_database.testing import new_database

pytestmark = pytest.mark.long

TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "10"}
LONG = 100_000
NUMBERS = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """The settings of a database of each kind."""
    if request.param == "sqlite":
        return {}
    url = asyncio.run(
        new_database(request.getfixturevalue("postgres"), f"left_{os.getpid()}_{next(NUMBERS)}")
    )
    return {"url": url}


@pytest.fixture
async def ask(tmp_path, database):
    """An administrator of a server with accounts, which runs three jobs at once."""
    options = {"guests": ("accounts",), "outbound_hosts": ["127.0.0.1"], "jobs": {"slots": 3}}
    async with asking(tmp_path, database=database, **options) as asked:
        yield asked


async def user(ask, name):
    """Make a user; return a token."""
    body = {"name": name, "password": "correct horse", "role": "developer"}
    assert (await ask("POST", "/v1/users", json=body))[0] == 201
    log_in = {"username": name, "password": "correct horse"}
    return (await ask("POST", "/auth/token", json=log_in))[1]["access_token"]


async def busy(ask, secret):
    """Have somebody have one of everything; return a job that ended, one that runs, the upload."""
    async with session(ask.served, secret) as own:
        assert (await own("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/"}))[0] == 201
        async with own.session.post("/v1/uploads", headers=TUS) as made:
            upload = made.headers["Location"].rpartition("/")[2]
        ended = await own.count(1)
        await own.ended(ended)
        running = await own.count(LONG)
        await own.until(running, lambda shown: shown["progress"] > 0)
    return ended, running, upload


async def test_what_somebody_leaves(ask, tmp_path):
    """Of a removed user and a revoked key all goes but what ended; of a disabled one nothing."""
    bob, ada = await user(ask, "bob"), await user(ask, "ada")
    asked = {"name": "camera", "standalone": True, "scopes": ["jobs:read", "jobs:write"]}
    key = (await ask("POST", "/v1/keys", json=asked))[1]
    left = [await busy(ask, bob), await busy(ask, key["key"])]
    _, kept, upload = await busy(ask, ada)
    assert (await ask("PATCH", "/v1/users/ada", json={"disabled": True}))[0] == 200
    assert (await ask("DELETE", "/v1/users/bob"))[0] == 204
    assert (await ask("DELETE", f"/v1/keys/{key['id']}"))[0] == 204
    for ended, running, _ in left:
        assert (await ask.ended(running))["state"] == "cancelled"
        assert (await ask("GET", f"/v1/jobs/{ended}"))[1]["state"] == "done"
    _, hooks = await ask.until_listed("/v1/webhooks", lambda page: len(page["webhooks"]) == 1)
    folder = tmp_path / "jobs" / "uploads"
    async with asyncio.timeout(10):
        while [path.name for path in folder.iterdir()] != [upload]:
            await asyncio.sleep(0.02)
    _, shown = await ask("GET", f"/v1/jobs/{kept}")
    assert (shown["state"], hooks["webhooks"][0]["owner"]) == ("running", shown["owner"])


async def test_keys_of_the_server_itself(ask):
    """What was begun with a key that the database does not know is left alone."""
    job = await ask.count(LONG)
    await ask.until(job, lambda shown: shown["progress"] > 0)
    token = await user(ask, "bob")
    _, running, _ = await busy(ask, token)
    assert (await ask("DELETE", "/v1/users/bob"))[0] == 204
    assert (await ask.ended(running))["state"] == "cancelled"
    assert (await ask("GET", f"/v1/jobs/{job}"))[1]["state"] == "running"


@pytest.mark.parametrize("way", ["revoked", "over"])
async def test_events_end_with_what_they_were_asked_by(ask, way):
    """A key that is revoked, or whose time is over, sees no more of what it watches."""
    job = await ask.count(LONG)
    soon = {"expires_at": time.time() + 5} if way == "over" else {}
    scopes = ["jobs:read", "admin"]
    asked = {"name": "watch", "standalone": True, "scopes": scopes, **soon}
    key = (await ask("POST", "/v1/keys", json=asked))[1]
    async with session(ask.served, key["key"]) as watching:
        async with watching.session.get(f"/v1/jobs/{job}/events") as events:
            assert events.status == 200
            await events.content.readuntil(b"\n\n")
            if way == "revoked":
                assert (await ask("DELETE", f"/v1/keys/{key['id']}"))[0] == 204
            async with asyncio.timeout(30):
                rest = await events.content.read()
        assert rest.endswith(b'event: error\ndata: {"detail":"What you showed counts no more"}\n\n')
    assert (await ask("GET", f"/v1/jobs/{job}"))[1]["state"] == "running"
