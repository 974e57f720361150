"""What passes between front-ends of requests, answers and WebSockets."""

from __future__ import annotations

import asyncio
import importlib.metadata
import threading

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from api_answers import problem
from conftest import FAKES, register
from mataserver import Body, Conflict, Route, hookimpl, plugins, testing
from mataserver.frontends import directory
from stream_peers import eventually
from test_frontends import front, sees

THING = "thing"
LARGE = bytes(2_000_000)
REASON = "é" * 61 + "!"  # 123 bytes: as long as one may be


class Mirror:
    """A service that tells how it was asked, by the server that holds the thing."""

    def __init__(self, ctx):
        self._ctx = ctx

    async def __aenter__(self):
        """Hold nothing."""
        return self

    async def __aexit__(self, *exc):
        """Forget it."""

    def routes(self):
        """Return the routes."""
        one = "/lab/mirror/{thing}"
        return [
            Route("POST", "/lab/mirror", self.make, needs="infer"),
            Route("GET", one, self.tell, needs="infer", held="thing"),
            Route(
                "GET",
                one + "/large",
                self.large,
                needs="infer",
                held="thing",
                response=(Body("application/octet-stream"),),
            ),
            Route("GET", one + "/socket", self.socket, needs="infer", held="thing", socket=True),
        ]

    async def make(self, request):
        """Hold a thing of a name."""
        await self._ctx.held.add(request.query["name"])
        return web.json_response({})

    async def tell(self, request):
        """Tell how it is asked."""
        told = {
            "path": request.rel_url.raw_path_qs,
            "headers": [[name, value] for name, value in request.headers.items()],
            "address": self._ctx.http.address(request),
        }
        response = web.json_response(told)
        for value in ("a", "b"):
            response.headers.add("X-Twice", value)
        return response

    async def large(self, _request):
        """Send what is passed on as it comes."""
        return web.Response(body=LARGE)

    async def socket(self, request):
        """Send back what comes; a text is an order to close."""
        if "refuse" in request.query:
            raise Conflict("Somebody else has it")
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        await socket.send_str(request.rel_url.raw_path_qs)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.close(code=int(message.data), message=REASON.encode())
            elif message.type is WSMsgType.PING:
                await socket.pong(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket


class MirrorPlugin:
    """A plugin with that service."""

    @hookimpl
    def service(self, ctx):
        """Return the service."""
        return Mirror(ctx)


mirror = MirrorPlugin()
POINTS = (
    testing.FAKE,
    importlib.metadata.EntryPoint("mirror", "test_frontends_passing:mirror", plugins.GROUP),
)


@pytest.fixture
async def pair(tmp_path):
    """Two front-ends; the first one holds the thing."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    options = {"entry_points": POINTS}
    async with front(tmp_path, "one", **options) as one, front(tmp_path, "two", **options) as two:
        for each in (one, two):
            await eventually(lambda each=each: sees(each, 2))
        async with one.http.post("/lab/mirror", params={"name": THING}) as response:
            assert response.status == 200
        yield one, two


async def told(each, path=f"/lab/mirror/{THING}", **headers):
    """Return how the one that holds the thing was asked, and the answer."""
    async with each.http.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response


async def test_headers_pass_but_for_those_of_the_connection_and_of_who_asks(pair):
    """Conditions, names and whatever a plugin's client sends arrive; credentials do not."""
    _, two = pair
    given = {
        "If-Range": '"tag"',
        "If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT",
        "Accept-Language": "fr",
        "User-Agent": "robot/1",
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Lab": "7",
        "X-Request-Id": "of-the-client",
    }
    kept_here = {
        "Cookie": "mata=1",
        "X-CSRF-Token": "t",
        "X-API-Key": "test-key",
        "X-Hop": "mine",
        "Connection": "keep-alive, X-Hop",
        "X-Forwarded-For": "203.0.113.9",
    }
    found, response = await told(two, **given, **kept_here)
    headers = {name.lower(): value for name, value in found["headers"]}
    assert {name: headers.get(name.lower()) for name in given} == given
    assert not {"cookie", "x-csrf-token", "x-api-key", "authorization", "x-hop"} & set(headers)
    assert headers["x-forwarded-for"] == found["address"] == "127.0.0.1"
    assert response.headers.getall("X-Twice") == ["a", "b"]
    assert response.headers.getall("X-Request-Id") == ["of-the-client"]


async def test_paths_pass_as_they_were_sent(pair):
    """Escapes, doubled slashes of values and the query's order are those of the client."""
    one, two = pair
    path = f"/lab/mirror/{THING[:-1]}%67?b=%2F+x&a=1&a=&%C3%A9=%"
    for each in (one, two):
        for whole in (path, path + "=" + "x" * 8_000):  # as long as a request's line may be
            found, _ = await told(each, aiohttp.client.URL(whole, encoded=True))
            assert found["path"] == whole


async def test_lengths_pass(pair):
    """HEAD tells what GET would send, and a large answer how much comes."""
    one, two = pair
    for each in (one, two):
        async with each.http.head(f"/lab/mirror/{THING}/large") as response:
            assert response.headers.get("Content-Length") == str(len(LARGE))
        async with each.http.get(f"/lab/mirror/{THING}/large") as response:
            assert response.headers.get("Content-Length") == str(len(LARGE))
            assert await response.read() == LARGE


SOCKET = f"/lab/mirror/{THING}/socket"


async def test_a_sockets_query_passes_without_the_token(pair):
    """Its parameters arrive as they were sent, in order; what let it in does not."""
    _, two = pair
    query = "?b=%2F+x&t%6Fken=test-key&a=1&a="
    async with (
        aiohttp.ClientSession(two.served.url) as browser,
        browser.ws_connect(aiohttp.client.URL(SOCKET + query, encoded=True)) as ws,
    ):
        assert (await ws.receive_str(timeout=20)) == f"{SOCKET}?b=%2F+x&a=1&a="


async def test_messages_and_the_end_pass_as_they_are(pair):
    """Binary messages, pings with their payload, and a reason as long as one may be."""
    _, two = pair
    async with two.http.ws_connect(SOCKET, autoping=False) as ws:
        assert (await ws.receive_str(timeout=20)) == SOCKET
        await ws.send_bytes(b"\x00\xff")
        assert await ws.receive_bytes(timeout=20) == b"\x00\xff"
        await ws.ping(b"here?")
        message = await ws.receive(timeout=20)
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"here?")
        await ws.send_str("4321")
        message = await ws.receive(timeout=20)
        assert (message.data, message.extra) == (4321, REASON)


async def test_who_gets_no_socket_is_told_why(pair):
    """The one that holds the thing answered 409 in a sentence: so does the one that was asked."""
    one, two = pair
    for each in (one, two):
        asking = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        async with each.http.get(SOCKET + "?refuse=1", headers=asking | key) as response:
            assert await problem(response, 409) == "Somebody else has it"


# what holds up nothing


async def test_a_directory_that_stands_still(pair, monkeypatch):
    """A disk of the network that answers nothing holds up no request, and is told."""
    one, _ = pair
    goes_on = threading.Event()
    known = {name: getattr(directory, name) for name in ("_read", "_write")}

    def slow(name):
        def wait(*given):
            goes_on.wait(60)
            return known[name](*given)

        return wait

    async def is_ready(status):
        async with one.http.get("/ready") as response:
            return response.status == status

    for name in known:
        monkeypatch.setattr(directory, name, slow(name))
    try:
        async with asyncio.timeout(30):
            for number in range(3):
                async with one.http.post("/lab/mirror", params={"name": f"n{number}"}) as response:
                    assert response.status == 200
            async with one.http.get("/v1/sessions/sess_0123456789ab") as response:
                await problem(response, 404)
            await eventually(lambda: is_ready(503))
        async with one.http.get("/ready") as response:
            assert (await response.json())["waiting"] == {"shared_dir": "does not answer"}
    finally:
        goes_on.set()
    await eventually(lambda: is_ready(200))
