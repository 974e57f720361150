"""Webhooks: told of every end of a job, signed, again and again, and only where that is allowed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from serving_jobs import asking, session

from mataserver_database.testing import new_database

LOCAL = {"outbound_hosts": ["127.0.0.1"]}


class Receiver:
    """A server on the loopback that is told; it answers with the next of ``statuses``."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.got = []
        self.fresh = asyncio.Event()
        self.leaving = asyncio.Event()
        application = web.Application()
        application.router.add_post("/told", self._told)
        application.router.add_post("/silent", self._silent)
        self._server = TestServer(application)

    async def _told(self, request):
        self.got.append((dict(request.headers), await request.text()))
        self.fresh.set()
        status = self.statuses.pop(0) if self.statuses else 204
        moved = {"Location": "/told"} if status == 307 else {}
        return web.Response(status=status, headers=moved)

    async def _silent(self, request):
        self.got.append((dict(request.headers), await request.text()))
        self.fresh.set()
        await self.leaving.wait()
        return web.Response()

    async def __aenter__(self):
        await self._server.start_server()
        return self

    async def __aexit__(self, *exc):
        self.leaving.set()
        await self._server.close()

    @property
    def url(self):
        return str(self._server.make_url("/told"))

    async def told(self, count=1, seconds=10.0):
        """Wait until so many requests came."""
        async with asyncio.timeout(seconds):
            while len(self.got) < count:
                await self.fresh.wait()
                self.fresh.clear()
        return self.got


@pytest.fixture
async def receiver():
    """A receiver that takes all."""
    async with Receiver() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def chosen(request):
    """The settings of a database of each kind."""
    if request.param == "sqlite":
        return {}
    url = asyncio.run(new_database(request.getfixturevalue("postgres"), f"hooks_{os.getpid()}"))
    return {"url": url}


def is_signed(headers, body, secret):
    """Whether a request is signed as Standard Webhooks has it, written down here once more."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{wanted}"


async def test_an_owner_is_told(tmp_path, chosen, receiver):
    """A job that ends is told to its owner's webhooks, signed with the secret shown once."""
    async with asking(tmp_path, database=chosen, **LOCAL) as ask:
        status, made = await ask("POST", "/v1/webhooks", json={"url": receiver.url})
        assert status == 201, made
        job = await ask.count(3)
        shown = await ask.ended(job)
        ((headers, body),) = await receiver.told()
        _, listed = await ask.until_listed(
            "/v1/webhooks", lambda page: page["webhooks"][0]["last_at"]
        )
    assert is_signed(headers, body, made["secret"])
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30
    event = json.loads(body)
    assert (event["type"], event["data"]) == ("job.done", shown)
    (known,) = listed["webhooks"]
    assert "secret" not in known
    assert (known["id"], known["last_error"]) == (made["id"], None)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://localhost:9/x",
        "http://10.0.0.7/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "http://ada:secret@example.com/",
        "ftp://example.com/",
        "//example.com",
    ],
)
async def test_addresses_that_are_refused(ask, url):
    """An address in the server's own network, or of another kind, is 400 and is not kept."""
    status, body = await ask("POST", "/v1/webhooks", json={"url": url})
    assert (status, body["detail"].partition(":")[0]) == (400, "webhook")
    assert (await ask("GET", "/v1/webhooks"))[1] == {"webhooks": []}
    assert (await ask("GET", "/v1/webhooks?limit=1"))[0] == 422


@pytest.fixture
async def ask(tmp_path):
    """A server."""
    async with asking(tmp_path) as asked:
        yield asked


async def test_an_address_that_is_private_by_now(tmp_path, receiver):
    """The rule is obeyed when a webhook is told, not only when it is made."""
    async with asking(tmp_path, **LOCAL) as ask:
        await ask("POST", "/v1/webhooks", json={"url": receiver.url})
    async with asking(tmp_path) as ask:
        await ask.ended(await ask.count(1))
        _, listed = await ask.until_listed(
            "/v1/webhooks", lambda page: page["webhooks"][0]["last_at"]
        )
    told = "webhook: only public addresses and those of outbound_hosts are allowed"
    assert listed["webhooks"][0]["last_error"] == told
    assert receiver.got == []


async def test_one_that_never_answers(tmp_path, receiver):
    """It is given up after its time, holds up neither others' nor the server's end."""
    keys = [{"key": "test-key", "name": "test"}, {"key": "bob-key", "name": "bob"}]
    silent = receiver.url.replace("told", "silent")
    settings = {"jobs": {"webhook_timeout": 0.5, "slots": 2}, **LOCAL, "api_keys": keys}
    async with asking(tmp_path, **settings) as ask, session(ask.served, "bob-key") as bob:
        await ask("POST", "/v1/webhooks", json={"url": silent})
        await bob("POST", "/v1/webhooks", json={"url": receiver.url})
        await ask.ended(await ask.count(1))
        await receiver.told(1)
        await bob.ended(await bob.count(1))
        await receiver.told(2, seconds=0.45)
        _, listed = await ask.until_listed(
            "/v1/webhooks", lambda page: page["webhooks"][0]["last_at"]
        )
        assert listed["webhooks"][0]["last_error"] == "webhook: no complete answer within 0.5 s"


async def test_a_server_that_stops_in_between(tmp_path, receiver):
    """What was not answered when the server stopped is told by the next one, at once."""
    silent = receiver.url.replace("told", "silent")
    async with asking(tmp_path, **LOCAL) as ask:
        await ask("POST", "/v1/webhooks", json={"url": silent})
        job = await ask.count(1)
        await ask.ended(job)
        await receiver.told(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    receiver.leaving.set()  # from now on it answers
    async with asking(tmp_path, **LOCAL) as ask:
        (first, second) = await receiver.told(2)
        assert (await ask("DELETE", f"/v1/jobs/{job}"))[0] == 204
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert first[1] == second[1]


async def test_whose_webhooks(tmp_path):
    """Another's webhook is not seen and 404; who only reads makes none."""
    keys = [
        {"key": "root-key", "name": "root"},
        *({"key": f"{n}-key", "name": n, "scopes": ["jobs:read", "jobs:write"]} for n in "ab"),
        {"key": "reader-key", "name": "reader", "scopes": ["jobs:read"]},
    ]
    async with asking(tmp_path, key="a-key", api_keys=keys, **LOCAL) as ask:
        _, made = await ask("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/"})
        one = f"/v1/webhooks/{made['id']}"
        async with session(ask.served, "b-key") as other:
            assert (await other("GET", "/v1/webhooks"))[1] == {"webhooks": []}
            assert (await other("DELETE", one))[0] == 404
        async with session(ask.served, "reader-key") as reader:
            asked = {"url": "http://127.0.0.1:9/"}
            assert (await reader("POST", "/v1/webhooks", json=asked))[0] == 403
        async with session(ask.served, "root-key") as root:
            assert len((await root("GET", "/v1/webhooks"))[1]["webhooks"]) == 1
            assert (await root("DELETE", "/v1/webhooks/%00"))[0] == 404
        assert (await ask("DELETE", one))[0] == 204
        assert (await ask("DELETE", one))[0] == 404
        for wrong in ({}, {"url": ""}, {"url": "http://a b"}, {"url": 7}, {"u": "x"}):
            assert (await ask("POST", "/v1/webhooks", json=wrong))[0] == 422
