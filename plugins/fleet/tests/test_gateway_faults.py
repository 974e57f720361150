"""Servers that fail, and clients that leave: who is asked instead, and what the client is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
import uvloop
from aiohttp import web
from gateway_stand import (  # noqa: F401
    INFER,
    KEY,
    application,
    eventually,
    stand,
    targets,
    upstreams,
)
from upstreams import RawServer, Upstream

from mataserver_fleet.gateway.bodies import StreamingBody
from mataserver_fleet.gateway.connections import (
    ConnectionEndedError,
    ConnectionPool,
    UpstreamConnection,
)
from mataserver_fleet.gateway.snapshot import Application, Target

CLOSED = Target("127.0.0.1", 9)
"""Where nobody listens."""


async def test_a_server_that_cannot_be_reached(stand, upstreams, targets):  # noqa: F811
    """A connection that fails is tried elsewhere, whatever the application says of resending."""
    stand.follow(application(CLOSED, targets[0]))
    for _ in range(20):
        assert (await stand.ask())[0] == 200
    assert len(upstreams[0].seen) == 20


async def test_nobody_can_be_reached(stand):  # noqa: F811
    """Without any server that lives the answer is 503 with a time to come back, and soon."""
    stand.follow(application(CLOSED))
    begun = time.monotonic()
    status, answer, headers = await stand.ask()
    assert (status in {502, 503}, set(answer)) == (True, {"error"})
    await eventually(lambda: not stand.gateway.servers.get(CLOSED).is_alive)
    status, answer, headers = await stand.ask()
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "127.0.0.1" not in str(answer)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("told", ["Content-Length: 90000000", "Transfer-Encoding: chunked"])
async def test_the_answer_to_head_is_not_read(stand, told):  # noqa: F811
    """Servers are asked by GET: the client's answer does not wait for a body that it never gets."""
    left = asyncio.Event()

    async def act(writer):
        writer.write(f"HTTP/1.1 200 OK\r\n{told}\r\nX-Own: 1\r\n\r\n".encode())
        try:
            while True:  # as long as anybody reads
                writer.write(b"4000\r\n%b\r\n" % bytes(0x4000))
                await writer.drain()
                await asyncio.sleep(0.001)
        except ConnectionError:
            left.set()

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        async with asyncio.timeout(5):
            path = "/gateway/shop/v2/models/cats"
            status, body, fields = await stand.ask(path, body=None, method="HEAD")
            await left.wait()
        assert (status, body, fields["X-Own"]) == (200, b"", "1")
        assert fields.get("Content-Length") == (told.partition(": ")[2] if "90" in told else None)


@pytest.mark.parametrize("resend", [False, True])
async def test_a_server_that_dies_before_it_answers(stand, upstreams, targets, resend):  # noqa: F811
    """A request that a server may have received is sent anew only where the application says so."""

    async def act(_writer):
        return None

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port, 1e6), targets[0], resend=resend))
        status, _, _ = await stand.ask()
        assert server.asked == 1
    assert status == (200 if resend else 502)
    assert len(upstreams[0].seen) == int(resend)


async def test_a_server_that_dies_amid_its_answer(stand, upstreams, targets):  # noqa: F811
    """After the first byte nothing is asked anew, and the part is not taken for the whole."""
    sizes = iter((10, 200_000))

    async def act(writer):
        size = next(sizes)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b"12345")
        await writer.drain()
        await asyncio.sleep(0.05)

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port, 1e6), targets[0], resend=True))
        assert (await stand.ask())[0] == 502  # nothing of a short one was sent yet
        lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"apikey: {KEY}", "Content-Length: 0", "", ""]
        stand.gateway.servers.get(Target("127.0.0.1", server.port)).mark_alive(0)
        answer = await stand.exchange("\r\n".join(lines).encode())
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n12345")
    assert upstreams[0].seen == []
    assert next(iter(stand.gateway.usage.total.values())).failed == 2


@pytest.mark.parametrize("said", [b"", b"Connection: close\r\n"])
async def test_an_old_client(stand, said):  # noqa: F811
    """A client of HTTP/1.0 is given an answer without a length as one that ends with it."""

    async def act(writer):
        writer.write(b"HTTP/1.1 200 OK\r\n" + said + b"\r\n" + b"x" * 100_000)
        await writer.drain()

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        lines = [f"POST {INFER} HTTP/1.0", f"apikey: {KEY}", "Content-Length: 0", "", ""]
        answer = await stand.exchange("\r\n".join(lines).encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head
        assert body == b"x" * 100_000


async def test_odd_fields_of_an_answer(stand):  # noqa: F811
    """Bytes that are no text in a server's header do not keep its answer from the client."""

    async def act(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nX-Odd: a\xffb\r\nContent-Length: 2\r\n\r\nok")
        return True

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        status, body, headers = await stand.ask()
        assert (status, body, headers["X-Odd"]) == (200, b"ok", "a\ufffdb")


GARBAGE = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"HTTP/1.1 banana\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 1\x00\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
]


@pytest.mark.parametrize("said", GARBAGE, ids=range(len(GARBAGE)))
async def test_a_server_that_answers_garbage(stand, said):  # noqa: F811
    """What is no answer is 502 with a sentence, and the next request is served."""

    async def act(writer):
        writer.write(said)
        await writer.drain()

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        for _ in range(2):
            status, answer, _ = await stand.ask(timeout=None)
            assert (status, set(answer)) == (502, {"error"})


async def test_a_server_that_hangs(stand, upstreams, targets):  # noqa: F811
    """After the application's time the answer is 504; the server is not asked again meanwhile."""
    upstreams[0].pause.clear()
    stand.follow(application(targets[0], timeout=0.3))
    status, answer, _ = await stand.ask()
    assert (status, "0.3 s" in answer["error"]) == (504, True)
    await eventually(lambda: upstreams[0].cancelled == 1)


async def test_an_upload_that_takes_longer_than_an_answer_may(stand, upstreams, targets):  # noqa: F811
    """The time of an answer begins when the body has gone on."""
    stand.follow(application(targets[0], timeout=0.6))
    size = 9_000_000
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"apikey: {KEY}", f"Content-Length: {size}"]
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    for _ in range(9):
        writer.write(bytes(size // 9))
        await writer.drain()
        await asyncio.sleep(0.12)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_request_that_is_wrong(stand, targets):  # noqa: F811
    """A 400 of a server that has the model is the client's: it is passed on, and asked once."""

    class Strict(Upstream):
        async def inferred(self, request):
            return web.json_response({"error": "wrong shape"}, status=400)

    server = Strict("strict")
    await server.start()
    stand.follow(application(Target("127.0.0.1", server.port, 1e6), targets[0], resend=True))
    assert (await stand.ask())[:2] == (400, {"error": "wrong shape"})
    assert len(server.seen) == 1
    await server.stop()


def started(port=0):
    """Run a server in a process of its own; return the process and its port."""
    script = Path(__file__).with_name("upstream_process.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(port)], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


async def test_kill_9_under_load(stand):  # noqa: F811
    """One of two servers is killed again and again: no request that may be resent fails."""
    (dying, port), (other, second) = started(), started()
    done, found = asyncio.Event(), []
    stand.follow(application(Target("127.0.0.1", port), Target("127.0.0.1", second), resend=True))

    async def load():
        while not done.is_set():
            status, answer, _ = await stand.ask(body=b"x" * 60_000)
            found.append((status, answer.get("port")))

    workers = [asyncio.ensure_future(load()) for _ in range(8)]
    try:
        for _ in range(3):
            before = len(found)
            await eventually(lambda b=before: (200, port) in found[b:])
            dying.kill()
            dying.wait()
            dying.stdout.close()
            await asyncio.sleep(0.3)
            dying, _ = await asyncio.to_thread(started, port)
        before = len(found)
        await eventually(lambda: (200, port) in found[before:])
    finally:
        done.set()
        await asyncio.gather(*workers)
        for process in (dying, other):
            process.kill()
            process.wait()
            process.stdout.close()
    assert {status for status, _ in found} == {200}
    assert len(found) > 100


async def test_a_client_that_leaves(stand, upstreams, targets):  # noqa: F811
    """The request to the server is cancelled, and counts as busy no more."""
    upstreams[0].pause.clear()
    stand.follow(application(targets[0]))
    asking = asyncio.ensure_future(stand.ask())
    await eventually(lambda: upstreams[0].seen)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await eventually(lambda: upstreams[0].cancelled == 1)
    assert stand.gateway.servers.get(targets[0]).outstanding == 0


async def test_a_client_that_reads_slowly(stand):  # noqa: F811
    """An answer of 200 MB that nobody reads is not gathered in memory, and is cut off in time."""

    class Large(Upstream):
        async def inferred(self, request):
            response = web.StreamResponse()
            response.content_length = 200_000_000
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    await response.write(bytes(1_000_000))
            return response

    server = Large("large")
    await server.start()
    stand.follow(application(Target("127.0.0.1", server.port)))
    gc.collect()
    before = psutil.Process().memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port, limit=1024)
    lines = [f"POST {INFER} HTTP/1.1", "Host: x", f"apikey: {KEY}", "Content-Length: 0", "", ""]
    writer.write("\r\n".join(lines).encode())
    await reader.readuntil(b"\r\n\r\n")
    usage = stand.gateway.usage
    await eventually(lambda: usage.total)
    assert psutil.Process().memory_info().rss - before < 60_000_000
    count = next(iter(usage.total.values()))
    assert (count.failed, count.bytes_out < 100_000_000) == (1, True)
    writer.transport.abort()
    await server.stop()


async def test_another_snapshot_amid_requests(stand, upstreams, targets):  # noqa: F811
    """A request that is under way ends as it began, also where its application is gone."""
    upstreams[0].pause.clear()
    stand.follow(application(targets[0]))
    asking = asyncio.ensure_future(stand.ask())
    await eventually(lambda: upstreams[0].seen)
    stand.gateway.follow(type(stand.gateway.snapshot)([Application("other")], []))
    assert (await stand.ask())[0] == 404
    upstreams[0].pause.set()
    assert (await asking)[0] == 200


def test_a_server_that_is_gone_amid_a_body():
    """Nothing more is written to it, and its end is told: uvloop raises for a closed transport."""

    async def write():
        server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1")
        async with server:
            loop, port = asyncio.get_running_loop(), server.sockets[0].getsockname()[1]
            _, connection = await loop.create_connection(UpstreamConnection, "127.0.0.1", port)
            body = StreamingBody(b"a", types.SimpleNamespace(next_piece=piece), 3)
            transport, lost = connection.begin_request(), []

            async def wait_writable():
                while not lost:  # as while the client's next piece has yet to come
                    lost.extend([1] if transport.is_closing() else [])
                    await asyncio.sleep(0)
                return True

            await body.send(connection.write, wait_writable)
            with pytest.raises(ConnectionEndedError):
                await connection.head()

    pieces = iter([b"bb", b""])

    async def piece():
        return next(pieces)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())


async def test_a_server_that_hangs_up_at_once(monkeypatch):
    """It counts as one that cannot be reached: it was sent nothing."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def late(*given):
        made = await connect(*given)
        while made[1].is_usable:
            await asyncio.sleep(0)
        return made

    async def addresses(_target):
        return ("127.0.0.1",)

    monkeypatch.setattr(loop, "create_connection", late)
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1")
    async with server:
        target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
        pool = ConnectionPool(loop.time, types.SimpleNamespace(addresses=addresses), None)
        with pytest.raises(ConnectionEndedError):
            await pool.acquire(target)
