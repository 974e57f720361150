"""Sockets and events that begin after their requests, of those who may not have them by then."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from api_answers import until
from conftest import POINTS
from mataserver import MataError, Principal, testing
from mataserver.http import middleware
from mataserver.http.revocation import CredentialsRevoked, Revocations
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

KEY = "camera-key"
GENEROUS = 20.0
LATE = """
import asyncio

from mataserver import PRINCIPAL, Route

class Service(Base):
    def __init__(self, ctx):
        super().__init__(ctx)
        self.go_on, self.waiting_for = asyncio.Event(), 0

    def routes(self):
        named = {way.__name__: self.late(way) for way in (self.own, self.ours, self.events)}
        return [
            Route("GET", f"/v1/{name}", way, needs="infer", socket=name != "events")
            for name, way in named.items()
        ]

    def late(self, way):
        async def handler(request):
            self.who = request[PRINCIPAL].id
            self.waiting_for += 1
            await self.go_on.wait()
            return await way(request)
        return handler

    async def own(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def ours(self, request):
        async with self.ctx.http.socket(request) as socket:
            async for message in socket:
                await socket.send(message)

    async def events(self, request):
        async def pieces():
            for _ in range(100):
                yield b"data: 1\\n\\n"
                await asyncio.sleep(0.1)
        return await self.ctx.http.events(request, pieces(), lambda error: b"event: error\\n\\n")
"""


@pytest.fixture
async def server(plugin, folder):
    """A server with the service, and a key that may do little."""
    keys = ["test-key", {"key": KEY, "name": "camera", "scopes": ["infer"]}]
    points = [*POINTS, plugin(LATE)]
    async with testing.serving(folder, entry_points=points, engine="thread", api_keys=keys) as made:
        yield made


@pytest.fixture
async def http(server):
    """A client with that key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as client:
        yield client


async def revoked(server):
    """Revoke the key while its request waits; then let that go on."""
    service = server.service("lab")
    await until(lambda: service.waiting_for)
    service.ctx.sign_out("key:of-another")
    service.ctx.sign_out(service.who)
    service.go_on.set()


@pytest.mark.parametrize("path", ["own", "ours"])
async def test_a_socket_that_is_accepted_after_the_key_was_revoked(server, http, path):
    """It is closed with 4001 at once, however late the handler accepts it."""
    revoking = asyncio.create_task(revoked(server))
    async with asyncio.timeout(GENEROUS), http.ws_connect(f"/v1/{path}") as socket:
        message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert (socket.close_code, message.extra) == (4001, "what you showed counts no more")
    await revoking
    await until(lambda: not server.composed.lifecycle.active)


async def test_events_that_begin_after_the_key_was_revoked(server, http):
    """They do not begin: 401."""
    revoking = asyncio.create_task(revoked(server))
    async with asyncio.timeout(GENEROUS), http.get("/v1/events") as response:
        assert response.status == 401
    await revoking


@pytest.mark.parametrize("path", ["own", "ours"])
async def test_a_socket_of_whom_nobody_revoked(server, http, path):
    """A revocation of another key meanwhile ends nothing."""
    server.service("lab").go_on.set()
    async with asyncio.timeout(GENEROUS), http.ws_connect(f"/v1/{path}") as socket:
        await socket.send_str("still there")
        assert await socket.receive_str() == "still there"


@pytest.mark.parametrize("revoked", ["lab:1", "lab:2"])
async def test_a_key_revoked_while_another_front_end_is_asked_for_the_session(revoked):
    """Its socket does not begin here; another key's end is nothing."""
    request = make_mocked_request("GET", "/v1/socket", headers={"Upgrade": "websocket"})
    grants = Revocations()
    grants.attach(request, Principal("lab:1", "somebody", "lab", frozenset({"infer"})))
    grants.end_all(revoked)

    async def handler(_request):
        return "begun"

    answering = middleware._until_revoked(handler, request)
    if revoked == "lab:1":
        with pytest.raises(CredentialsRevoked):
            await answering
    else:
        assert await answering == "begun"


TWO = """
import asyncio

from mataserver import Principal, Route

class Service(Base):
    def __init__(self, ctx):
        super().__init__(ctx)
        self.go_on, self.waiting_for, self.done = asyncio.Event(), 0, 0

    def routes(self):
        return [Route("DELETE", "/v1/thing", self.remove, needs="infer")]

    async def remove(self, request):
        self.done += 1
        return web.Response()

    async def authenticate(self, credentials):
        if credentials.secret == "theirs":
            return Principal("lab:1", "somebody", "lab", frozenset({"infer"}), grant="of the key")
        self.waiting_for += 1
        await self.go_on.wait()
        return None
"""


@pytest.mark.parametrize("way", [aiohttp.hdrs.METH_DELETE, "ctx.admit"])
@pytest.mark.parametrize("revoked", ["lab:1", "of the key", "lab:2"])
async def test_a_key_that_is_revoked_while_another_is_being_checked(plugin, folder, way, revoked):
    """It is refused although it was known when it was looked at; another key's end is nothing."""
    shown = {"X-API-Key": "theirs", "Authorization": "Bearer a-proxy-s"}
    points = [*POINTS, plugin(TWO)]
    async with (
        testing.serving(folder, entry_points=points, engine="thread") as server,
        aiohttp.ClientSession(server.url) as http,
        asyncio.timeout(GENEROUS),
    ):
        service = server.service("lab")

        async def asked():
            if way == "ctx.admit":
                metadata = [(name.lower(), value) for name, value in shown.items()]
                try:
                    await service.ctx.admit(metadata, "/", "", "infer")
                except MataError as error:
                    return error.status
                return 200
            async with http.request(way, "/v1/thing", headers=shown) as response:
                return response.status

        asking = asyncio.create_task(asked())
        await until(lambda: service.waiting_for)
        service.ctx.sign_out(revoked)
        service.go_on.set()
        accepted = revoked == "lab:2"
        assert await asking == (200 if accepted else 401)
        assert service.done == (accepted and way != "ctx.admit")


async def test_who_is_revoked_while_their_stream_still_ends():
    """Who loses a key, then all, loses all, though that key's stream takes a while to end."""
    grants, leaving, left = Revocations(), asyncio.Event(), asyncio.Event()
    stream = Principal("user", "ada", "key", frozenset(), grant="first")
    other = Principal("user", "ada", "key", frozenset(), grant="second")

    async def slow():
        try:
            await asyncio.Event().wait()
        finally:
            leaving.set()
            await left.wait()

    with grants.watched(stream) as ending, grants.watched(other) as begun:
        waiting = asyncio.create_task(ending.for_result(slow()))
        await asyncio.sleep(0)
        grants.end_all("first")
        await asyncio.wait_for(leaving.wait(), GENEROUS)
        begun.check()
        grants.end_all("user")
        with pytest.raises(CredentialsRevoked):
            begun.check()
        left.set()
        with pytest.raises(CredentialsRevoked):
            await waiting
