"""Mataservers that lie about their sessions: whom the gateway asks, and what it believes."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from gateway_stand import KEY, application, stand  # noqa: F401
from upstreams import Upstream

from mataserver_fleet.gateway import sockets, video_sessions
from mataserver_fleet.gateway.snapshot import Target
from mataserver_fleet.gateway.usage import Subject

SESSIONS = "/gateway/shop/v1/sessions"
SUBJECT = Subject("consumer-1", "shop", "cats")


class Liar(Upstream):
    """A mataserver that has the model, makes a session ``s``, and streams as ``stream`` does."""

    def __init__(self):
        super().__init__("liar")
        self.made = lambda: web.json_response({"session_id": "s"}, status=201)
        self.stream = None

    async def answer(self, request):
        """Answer as told."""
        if request.path == "/ready":
            return web.Response()
        if request.path == "/v1/models":
            return web.json_response([{"model": "cats"}])
        self.seen.append(request.path)
        if request.path == "/v1/sessions":
            await request.read()
            made = self.made()
            return await made(request) if callable(made) else made
        return await self.stream(request)


@pytest.fixture
async def liar(stand):  # noqa: F811
    """A lying mataserver behind the gateway."""
    server = Liar()
    await server.start()
    target = Target("127.0.0.1", server.port, token="secret", kind="mataserver")
    stand.follow(application(target, route={"protocols": frozenset({"ws", "http"})}))
    await stand.ready()
    yield server
    await server.stop()


async def made(stand):  # noqa: F811
    """Ask for a session; return status and answer."""
    fields = {"Content-Type": "application/json"}
    return (await stand.ask(SESSIONS, b'{"model": "cats"}', headers=fields))[:2]


@contextlib.asynccontextmanager
async def socket_of(stand):  # noqa: F811
    """Connect to the session."""
    assert (await made(stand))[0] == 201
    url = f"{stand.server.url}/gateway/shop/v1/stream/s"
    async with stand.http.ws_connect(url, headers={"apikey": KEY}) as socket:
        yield socket


async def status_of(stand):  # noqa: F811
    """Return the status with which the session's WebSocket is refused."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with socket_of(stand):
            pass
    return error.value.status


def counted(stand):  # noqa: F811
    """Return how many requests were counted, and how many as failed."""
    found = stand.gateway.usage.total[SUBJECT]
    return found.requests, found.failed


@pytest.mark.parametrize("where", ["http://127.0.0.1:{}/inside", "http://localhost:{}/", "/inside"])
async def test_a_socket_that_is_sent_elsewhere(stand, liar, where):  # noqa: F811
    """A redirect is followed nowhere: it could name an address that only this server reaches."""
    inside = Upstream("inside")
    await inside.start()

    async def elsewhere(_request):
        raise web.HTTPFound(where.format(inside.port))

    liar.stream = elsewhere
    try:
        assert await status_of(stand) == 502
    finally:
        await inside.stop()
    assert (inside.seen, liar.seen[-1]) == ([], "/v1/stream/s")
    assert counted(stand) == (2, 1)


async def test_what_is_counted_of_a_socket(stand, liar):  # noqa: F811
    """A session that is gone did not fail; a server that cannot be reached, or is cut off, did."""

    async def gone(_request):
        raise web.HTTPNotFound

    async def cut(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        request.transport.abort()
        return socket

    async def well(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_bytes((await socket.receive()).data)
        await socket.close(code=1000)
        return socket

    liar.stream = gone
    assert await status_of(stand) == 404
    assert counted(stand) == (2, 0)
    liar.stream = well
    async with socket_of(stand) as socket:
        await socket.send_bytes(b"frame")
        assert (await socket.receive()).data == b"frame"
        assert (await socket.receive()).data == 1000
    async with asyncio.timeout(30):
        while counted(stand) != (4, 0):
            await asyncio.sleep(0.01)
    liar.stream = cut
    async with socket_of(stand) as socket:
        await socket.send_bytes(b"frame")
        assert (await socket.receive()).data == 1001
    async with asyncio.timeout(30):
        while counted(stand) != (6, 1):
            await asyncio.sleep(0.01)


async def test_a_message_without_an_end(stand, liar, monkeypatch):  # noqa: F811
    """What a server sends as one message is kept up to a limit, and then its socket is closed."""
    monkeypatch.setattr(sockets, "MAX_MESSAGE_BYTES", 100_000)

    async def flood(request):
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        await socket.send_bytes(bytes(90_000))
        await socket.send_bytes(bytes(200_000))
        await socket.receive()
        return socket

    liar.stream = flood
    async with socket_of(stand) as socket:
        assert len((await socket.receive()).data) == 90_000
        assert (await socket.receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
    async with asyncio.timeout(30):
        while counted(stand) != (2, 1):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_the_server_does_not_accept(stand, liar, status):  # noqa: F811
    """What it says of the gateway's key is not the consumer's to read: not of a session either."""
    liar.made = lambda: web.json_response({"detail": "Invalid API key: secret"}, status=status)
    status, answer = await made(stand)
    assert (status, "secret" in str(answer)) == (502, False)
    liar.made = Liar().made
    assert (await made(stand))[0] == 201

    async def refuse(_request):
        return web.json_response({"detail": "Invalid API key: secret"}, status=401)

    liar.stream = refuse
    for method in ("GET", "DELETE"):
        status, answer, _ = await stand.ask(f"{SESSIONS}/s", b"", method)
        assert (status, "secret" in str(answer)) == (502, False)


async def test_a_session_without_an_end(stand, liar, monkeypatch):  # noqa: F811
    """A description is read up to a limit, whether the server tells its length or not."""
    monkeypatch.setattr(video_sessions, "MAX_RESPONSE_BYTES", 100_000)
    left = asyncio.Event()

    async def endless(request):
        response = web.StreamResponse(status=201)
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(10_000))
                await asyncio.sleep(0)
        finally:
            left.set()

    liar.made = lambda: endless
    assert (await asyncio.wait_for(made(stand), 30))[0] == 502
    await asyncio.wait_for(left.wait(), 30)
    liar.made = lambda: web.Response(status=201, body=bytes(200_000))
    assert (await made(stand))[0] == 502


async def test_when_to_ask_for_a_session_again(stand, liar):  # noqa: F811
    """A server's answer that has no room says when to try again, and the gateway repeats it."""
    liar.made = lambda: web.json_response(
        {"detail": "busy"}, status=503, headers={"Retry-After": "7", "X-Inside": "yes"}
    )
    fields = {"Content-Type": "application/json"}
    status, _, headers = await stand.ask(SESSIONS, b'{"model": "cats"}', headers=fields)
    assert (status, headers["Retry-After"], "X-Inside" in headers) == (503, "7", False)
