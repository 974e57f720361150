"""Answers that clients do not read: they count as in flight, and their clients are given up."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiohttp
import pytest

from api_answers import head_of, problem, until
from conftest import POINTS, picture
from mataserver import testing
from mataserver.app.running import CONNECTION_OPTIONS
from mataserver.http.budget import Budget, BudgetShare
from mataserver.http.unread_output import MIN_READ_BYTES, AnonymousOutput, UnreadOutput
from mataserver.testing.serving import DEFAULTS
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

MAP = picture(640, 480)
"""A picture whose map of depths is 1.2 MB."""
ASK = {"Accept": "application/msgpack", "Content-Type": "image/png"}
PATIENT = 600.0
GENEROUS = 30.0
MUCH = """
import asyncio
import socket

from mataserver import PRINCIPAL, Route

class Service(Base):
    def routes(self):
        return [
            Route("GET", "/v1/whole", self.whole, needs="infer"),
            Route("GET", "/v1/open", self.whole, public=True),
            Route("GET", "/v1/events", self.events, needs="infer"),
            Route("GET", "/v1/pieces", self.pieces, needs="infer"),
            Route("GET", "/v1/file", self.file, needs="infer"),
            Route("GET", "/v1/little", self.little, needs="infer"),
            Route("GET", "/v1/socket", self.socket, needs="infer", socket=True),
            Route("GET", "/v1/own", self.own, needs="infer", socket=True),
        ]

    asked = 0

    async def whole(self, request):
        self.asked += 1
        return web.Response(body=bytes(1_200_000))

    async def events(self, request):
        async def endless():
            while True:
                yield "much", "x" * 100_000

        return await self.ctx.http.events(request, endless())

    async def pieces(self, request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(100_000))

    async def little(self, request):
        answer = web.StreamResponse()
        if "last" in request.query:
            answer.force_close()
        await answer.prepare(request)
        await self.leave(request, answer.write)
        return answer

    async def own(self, request):
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await self.leave(request, answer.send_bytes)
        self.ctx.sign_out(request[PRINCIPAL].id)
        async for _ in answer:
            pass
        return answer

    async def leave(self, request, write):
        sock = request.transport.get_extra_info("socket")  # the kernel takes no more, also later
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        while request.transport.get_write_buffer_size() < 30_000:
            await write(bytes(10_000))
            await asyncio.sleep(0)
        self.asked += 1

    async def file(self, request):
        path = self.ctx.data_dir / "much"
        with path.open("wb") as file:
            file.truncate(50_000_000)
        return web.FileResponse(path)

    async def socket(self, request):
        async with self.ctx.http.socket(request) as socket:
            while True:
                await socket.send(bytes(100_000))
"""
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def deaf(server):
    """Return a socket that has little room for what it does not read, here and at the server."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    # The kernel gives a sender the more room the longer its segments are: 2 MB on the loopback.
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_000)
    peer.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    peer.settimeout(0)
    return peer


@contextlib.asynccontextmanager
async def unread(server, *heads):
    """Send requests, each on a connection of its own, and read nothing; yield the sockets."""
    peers = [deaf(server) for _ in heads]
    try:
        for peer, head in zip(peers, heads, strict=True):
            await asyncio.get_running_loop().sock_sendall(peer, head)
        yield peers
    finally:
        for peer in peers:
            peer.close()


def mapped(server):
    """Return a request for a large answer."""
    fields = (f"{name}: {value}" for name, value in ASK.items())
    head = head_of(server, "/v1/infer?model=fake-depth", *fields, f"Content-Length: {len(MAP)}")
    return head + MAP


async def rest(peer):
    """Read to the end of a connection; return how many bytes came."""
    loop, size = asyncio.get_running_loop(), 0
    async with asyncio.timeout(GENEROUS):
        with contextlib.suppress(ConnectionError):
            while chunk := await loop.sock_recv(peer, 65_536):
                size += len(chunk)
    return size


async def know(server):
    """Have a server know the head of a request for a large answer."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    for _ in range(2):
        writer.write(mapped(server))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))
    writer.close()
    assert server.composed.heads.hits == int(DEFAULTS.get("short_way", True))


@pytest.mark.parametrize("known", [False, True])
async def test_answers_that_nobody_reads_count(data_dir, known):
    """They take room as bodies do; without any a large answer is 503, and a small one is given."""
    chosen = {"max_inflight_mb": 5, "max_body_mb": 5, "unread_timeout": PATIENT}
    async with (
        testing.serving(data_dir, engine="thread", **chosen) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        contextlib.AsyncExitStack() as stack,
    ):
        if known:
            await know(server)
        peers = await stack.enter_async_context(unread(server, *(4 * [mapped(server)])))
        budget = server.composed.budget
        await until(lambda: budget.taken > 4_000_000, GENEROUS)
        assert server.composed.heads.hits == (5 if known and DEFAULTS.get("short_way", True) else 0)
        asked = {"params": {"model": "fake-depth"}, "data": MAP, "headers": ASK}
        async with http.post("/v1/infer", **asked) as response:
            assert response.headers["Retry-After"] == "1"
            assert await problem(response, 503) == "Too many request bytes are in flight"
        asked["params"] = {"model": "fake-detect"}
        async with http.post("/v1/infer", **asked) as response:
            assert response.status == 200
        peers[0].close()
        await until(lambda: budget.taken < 4_000_000, GENEROUS)
        asked["params"] = {"model": "fake-depth"}
        async with http.post("/v1/infer", **asked) as response:
            assert len(await response.read()) > 1_200_000
        for peer in peers:
            peer.close()
        await until(lambda: budget.taken == 0, GENEROUS)


@pytest.mark.parametrize("known", [False, True])
async def test_an_answer_that_is_read_late_is_whole(data_dir, known):
    """Whoever waits no longer than they may gets every byte, and the connection goes on."""
    async with (
        testing.serving(data_dir, engine="thread", unread_timeout=PATIENT) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        if known:
            await know(server)
        [peer] = await stack.enter_async_context(unread(server, mapped(server)))
        budget = server.composed.budget
        await until(lambda: budget.taken > 1_000_000, GENEROUS)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, head_of(server, "/health", "Connection: close", method="GET"))
        assert await rest(peer) > 1_200_000
        await until(lambda: budget.taken == 0, GENEROUS)


@pytest.mark.parametrize("known", [False, True])
async def test_the_end_of_the_server_cuts_off_no_answer(data_dir, known):
    """What was answered is sent to the end, as long as the end may take."""
    serving = testing.serving(data_dir, engine="thread", unread_timeout=PATIENT, drain_timeout=20)
    server = await serving.__aenter__()
    if known:
        await know(server)
    async with unread(server, mapped(server)) as [peer]:
        await until(lambda: server.composed.budget.taken > 1_000_000, GENEROUS)
        ending = asyncio.create_task(serving.__aexit__(None, None, None))
        await asyncio.sleep(0.2)
        assert await rest(peer) > 1_200_000
        await ending


@pytest.mark.parametrize("path", ["whole", "events", "pieces", "file", "socket"])
async def test_who_reads_nothing_is_given_up(plugin, folder, path):
    """Whatever it is that is not read: it counted, and the connection ends."""
    chosen = {"engine": "thread", "unread_timeout": 0.5}
    async with testing.serving(folder, entry_points=[*POINTS, plugin(MUCH)], **chosen) as server:
        budget, connections = server.composed.budget, server.composed.lifecycle
        more = UPGRADE if path == "socket" else ()
        head = head_of(server, f"/v1/{path}", *more, method="GET")
        async with unread(server, head) as [peer]:
            await until(lambda: budget.taken > 0, GENEROUS)
            await until(lambda: budget.taken == 0 and not connections.active, GENEROUS)
            await rest(peer)  # it ends, or this does not


@pytest.mark.undocumented("of a connection too many no request is read")
@pytest.mark.parametrize(("path", "more"), [("little", ()), ("little?last", ()), ("own", UPGRADE)])
async def test_who_leaves_the_rest_of_an_answer_is_given_up(
    plugin, folder, path, more, monkeypatch
):
    """A connection that closes, after its last answer, idle or revoked, does not wait for ever.

    What is left is too little to pause the writer, which is what is watched while it is open.
    """
    monkeypatch.setitem(CONNECTION_OPTIONS, "keepalive_timeout", 0.5)
    points, chosen = [*POINTS, plugin(MUCH)], {"unread_timeout": 0.5, "max_connections": 1}
    async with (
        testing.serving(folder, entry_points=points, engine="thread", **chosen) as server,
        unread(server, head_of(server, f"/v1/{path}", *more, method="GET")),
    ):
        await until(lambda: server.service("lab").asked, GENEROUS)

        async def status():
            async with aiohttp.request("GET", server.url + "/health") as response:
                return response.status

        async with asyncio.timeout(GENEROUS):
            while await status() != 200:
                await asyncio.sleep(0.05)
        assert server.composed.budget.taken == 0


async def test_strangers_take_no_room_of_others(plugin, folder):
    """Of those without a key who do not read the first are given up, and nobody with one is."""
    chosen = {"max_inflight_mb": 16, "max_body_mb": 16, "unread_timeout": PATIENT}
    points = [*POINTS, plugin(MUCH)]
    async with testing.serving(folder, entry_points=points, engine="thread", **chosen) as server:
        budget = server.composed.budget
        ours = head_of(server, "/v1/whole", "Connection: close", method="GET")
        theirs = b"GET /v1/open HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        async with unread(server, ours) as [mine]:
            await until(lambda: budget.taken > 1_000_000, GENEROUS)
            async with unread(server, *(4 * [theirs])) as peers:
                await until(lambda: server.service("lab").asked == 5, GENEROUS)
                await until(lambda: 1_500_000 < budget.taken < 2_500_000, GENEROUS)
                sizes = sorted([await rest(peer) for peer in peers])
            assert [size > 1_200_000 for size in sizes] == [False, False, False, True]
            assert await rest(mine) > 1_200_000
        await until(lambda: budget.taken == 0, GENEROUS)


class Full:
    """A transport with so many bytes in it at each look."""

    def __init__(self, *sizes):
        self._sizes = list(sizes)
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self):
        return self._sizes.pop(0)

    def abort(self):
        self.aborted.set()


@pytest.mark.parametrize(
    ("sizes", "looks"),
    [
        ((5 * MIN_READ_BYTES, 5 * MIN_READ_BYTES), 1),
        ((5 * MIN_READ_BYTES, 4 * MIN_READ_BYTES + 1), 1),
        ((5 * MIN_READ_BYTES, 4 * MIN_READ_BYTES, 3 * MIN_READ_BYTES, 3 * MIN_READ_BYTES - 1), 3),
    ],
)
async def test_who_reads_enough_has_more_time(sizes, looks):
    """A megabyte in each while is enough; the bytes count as they were at first."""
    budget = Budget(1)  # what is in memory already counts, whatever room there is
    transport, backlog = Full(*sizes), UnreadOutput(BudgetShare(budget), 0.001, AnonymousOutput(1))
    backlog.begin(transport)
    assert budget.taken == sizes[0]
    async with asyncio.timeout(GENEROUS):
        await transport.aborted.wait()
    assert len(sizes) == looks + 1
    assert transport._sizes == []
    backlog.end()
    assert budget.taken == 0


async def test_who_has_read_is_not_looked_at_again():
    """Nobody is given up who has read what there was."""
    transport = Full(2 * MIN_READ_BYTES)
    backlog = UnreadOutput(BudgetShare(Budget(1)), 0.001, AnonymousOutput(1))
    backlog.begin(transport)
    backlog.end()
    await asyncio.sleep(0.05)
    assert not transport.aborted.is_set()
