"""Inferences whose head was answered before: nothing about them differs but what they cost."""

from __future__ import annotations

import asyncio
import json
import re
import sys

import msgspec
import pytest
from gateway_stand import INFER, KEY, application, consumer, stand, targets, upstreams  # noqa: F401
from upstreams import RawServer, Upstream

from mataserver_fleet.gateway.snapshot import Target

VARYING = re.compile(rb"(X-Request-Id: |total;dur=|Date: )[^\r\n]*")


def request(body, *lines, key=KEY):
    """Return a request as a client sends it each time."""
    head = [f"POST {INFER} HTTP/1.1", "Host: x", f"apikey: {key}", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Line:
    """A connection of a client."""

    def __init__(self, stand):  # noqa: F811
        self.stand = stand

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.stand.port)
        return self

    async def __aexit__(self, *exc):
        self.writer.close()

    @property
    def hits(self):
        """How many requests were answered by their head."""
        return self.stand.server.composed.heads.hits

    async def ask(self, *pieces):
        """Send a request; return the answer's head, without what always varies, and its body."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.01 if len(pieces) > 1 else 0)
        async with asyncio.timeout(30):
            return await self.read()

    async def read(self):
        """Return an answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            size = re.search(rb"Content-Length: (\d+)", head)
            body = await self.reader.readexactly(int(size[1]))
        return VARYING.sub(rb"\1", head), body


BODIES = [
    b'{"inputs":[]}',
    b"x" * 60_000,
    b"x" * 999_999,
    b'{"inputs":[{"parameters":{"shared_memory_region":"a"}}]}',
    b'{"parameters":{"sequence_id":7,"sequence_start":true}}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(len(body)))
async def test_the_same_answer(stand, upstreams, targets, body):  # noqa: F811
    """Client and server are sent the same as of the first one, however its bytes are cut."""
    stand.follow(application(*targets[:1]))
    lines = ["X-Kept: 1", "Connection: keep-alive", "Content-Type: application/json"]
    async with Line(stand) as line:
        first = await line.ask(request(body, *lines))
        await line.ask(request(b"{}", *lines))
        before, sent = line.hits, request(body, *lines)
        assert await line.ask(sent) == first
        assert await line.ask(sent[:-1], sent[-1:]) == first
        assert line.hits == before + 2
    seen = [
        (each.method, each.path, each.sha, list(each.headers.items())) for each in upstreams[0].seen
    ]
    assert [each for each in seen if each[2] == seen[0][2]] == [seen[0]] * seen.count(seen[0])


async def test_answers_of_every_kind(stand):  # noqa: F811
    """Long ones, in chunks, without a body's type, of another status, and none at all."""
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 422 No\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000),
        b"nonsense\r\n\r\n",
    ]
    given = []

    async def act(writer):
        writer.write(given.pop())
        await writer.drain()
        return True

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port), retries=0))
        for number, answer in enumerate(answers):
            found = []
            lines = [f"X-Case: {number}"]
            async with Line(stand) as line:
                for _ in range(2):
                    given.append(answer)
                    found.append(await line.ask(request(b"{}", *lines)))
                    # Learnt by an answer that is well.
                    given.append(answers[0])
                    await line.ask(request(b"{}", *lines))
                assert line.hits >= 2
            assert found[0] == found[1], answer[:60]


async def test_the_time_of_an_answer_in_pieces(stand, monkeypatch):  # noqa: F811
    """It counts from the request, also where a known head began before there was a task."""
    monkeypatch.setattr(sys.modules[__name__], "VARYING", re.compile(rb"(Date: )[^\r\n]*"))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", chunked]

    async def act(writer):
        if (answer := pieces[0] if len(pieces) > 1 else chunked) is chunked:
            await asyncio.sleep(0.2)
        writer.write(answer)
        await writer.drain()
        return True

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port), retries=0))
        async with Line(stand) as line:
            await line.ask(request(b"{}"))  # learnt
            before = line.hits
            pieces.pop(0)
            head, body = await line.ask(request(b"{}"))
            assert line.hits == before + 1
            assert body == b"hi"
            assert float(re.search(rb"total;dur=([\d.]+)", head)[1]) >= 190


async def test_who_may_ask_no_more(stand, targets):  # noqa: F811
    """A key that is revoked, unlinked or over its rate is refused with the next request."""
    limited = consumer(1, KEY, rate=4)
    stand.follow(application(*targets[:1]), consumers=[limited])
    async with Line(stand) as line:
        heads = [(await line.ask(request(b"{}")))[0] for _ in range(5)]
        assert [head[9:12] for head in heads] == [b"200"] * 4 + [b"429"]
        assert line.hits == 4
        for applications, known, status in (
            ([application(*targets[:1])], [consumer(1, KEY)], b"200"),
            ([application(*targets[:1], consumers=frozenset())], [consumer(1, KEY)], b"403"),
            ([application(*targets[:1])], [consumer(1, "another")], b"401"),
            ([application(*targets[:1], name="other")], [consumer(1, KEY)], b"404"),
            ([application(*targets[:1])], [consumer(1, KEY)], b"200"),
        ):
            stand.follow(*applications, consumers=known)
            assert (await line.ask(request(b"{}")))[0][9:12] == status


async def test_a_key_that_goes_while_its_first_answer_comes(stand, upstreams, targets):  # noqa: F811
    """What was judged before the change is answered, and is no rule for the next request."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        upstreams[0].pause.clear()
        asking = asyncio.ensure_future(line.ask(request(b"{}")))
        async with asyncio.timeout(30):
            while not upstreams[0].seen:
                await asyncio.sleep(0.01)
        stand.follow(application(*targets[:1]), consumers=[consumer(1, "another")])
        upstreams[0].pause.set()
        assert (await asking)[0].startswith(b"HTTP/1.1 200")
        assert (await line.ask(request(b"{}")))[0].startswith(b"HTTP/1.1 401")


async def test_a_body_that_does_not_arrive(stand, targets):  # noqa: F811
    """It is told as of any other."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        head, body = await line.ask(request(b'{"inputs":[]}')[:-3])
        assert head.startswith(b"HTTP/1.1 408"), body


async def test_a_slow_model_behind_a_body_in_pieces(stand, upstreams, targets):  # noqa: F811
    """A body that has arrived is not late, however long its answer takes."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        upstreams[0].pause.clear()
        sent = request(b'{"inputs":[]}')
        asking = asyncio.ensure_future(line.ask(sent[:-3], sent[-3:]))
        await asyncio.sleep(2 * stand.gateway.bodies.timeout)
        upstreams[0].pause.set()
        assert (await asking)[0].startswith(b"HTTP/1.1 200")
        assert (await line.ask(request(b"{}")))[0].startswith(b"HTTP/1.1 200")
        assert line.hits == 2
    assert [each.size for each in upstreams[0].seen] == [2, 13, 2]


async def test_another_clients_address(stand, upstreams, targets):  # noqa: F811
    """The server is told where each came from, though their heads are the same."""
    stand.follow(application(*targets[:1]))
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        line = Line(stand)
        local = (address, 0)
        line.reader, line.writer = await asyncio.open_connection(
            "127.0.0.1", stand.port, local_addr=local
        )
        await line.ask(request(b"{}"))
        assert upstreams[0].seen[-1].headers["X-Forwarded-For"] == address
        line.writer.close()
    assert line.hits == 2


async def test_a_client_that_leaves(stand, upstreams, targets):  # noqa: F811
    """The request to the server is cancelled and counted, and the server is busy no more."""
    stand.follow(application(targets[0]))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        upstreams[0].pause.clear()
        line.writer.write(request(b"{}"))
        async with asyncio.timeout(30):
            while len(upstreams[0].seen) < 2:
                await asyncio.sleep(0.01)
        assert line.hits == 1
        line.writer.transport.abort()
        async with asyncio.timeout(30):
            while not upstreams[0].cancelled:
                await asyncio.sleep(0.01)
    assert stand.gateway.servers.get(targets[0]).outstanding == 0
    (count,) = stand.gateway.usage.total.values()
    assert count.requests == 2


async def test_one_behind_the_other(stand, targets):  # noqa: F811
    """Requests that come at once are answered in their order."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        line.writer.write(b"".join(request(b"x" * size) for size in (10, 20_000, 30)))
        async with asyncio.timeout(30):
            found = [json.loads((await line.read())[1])["size"] for _ in range(3)]
        assert found == [10, 20_000, 30]


async def test_a_server_that_fails(stand, upstreams):  # noqa: F811
    """Another is asked, as the application says."""
    gone = Upstream("gone")
    await gone.start()
    here = Target("127.0.0.1", upstreams[0].port)
    stand.follow(application(Target("127.0.0.1", gone.port, 1e6), here, resend=True))
    async with Line(stand) as line:
        assert b"gone" in (await line.ask(request(b"{}")))[1]
        await gone.stop()
        for _ in range(3):
            assert b"one" in (await line.ask(request(b"{}")))[1]
        assert line.hits == 3


def tasks():
    """Return the tasks that requests of clients are answered in."""
    return [each for each in asyncio.all_tasks() if "_respond" in repr(each.get_coro())]


async def test_a_server_that_takes_too_long(stand, upstreams, targets):  # noqa: F811
    """The answer is 504 and tells the application's time, as that of the first request does."""
    stand.follow(application(targets[0], timeout=0.4))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        upstreams[0].pause.clear()
        head, body = await line.ask(request(b"{}"))
        assert head.startswith(b"HTTP/1.1 504")
        assert b"0.4 s" in body
        assert line.hits == 1
    server = stand.gateway.servers.get(targets[0])
    assert (server.outstanding, server._timers) == (0, set())


async def test_a_server_that_dies_with_the_request(stand, upstreams, targets):  # noqa: F811
    """Once probes have told, the request is another's, who has the time that is left of it."""
    first, second = targets
    stand.follow(application(msgspec.structs.replace(first, weight=1e6), second, resend=True))
    async with Line(stand) as line:
        assert b'"one"' in (await line.ask(request(b"{}")))[1]
        for each in upstreams:
            each.pause.clear()
        asking = asyncio.ensure_future(line.ask(request(b"{}")))
        async with asyncio.timeout(30):
            while len(upstreams[0].seen) < 2:
                await asyncio.sleep(0.01)
        assert not tasks()
        stand.gateway.servers.get(first).mark_dead()
        async with asyncio.timeout(30):
            while not upstreams[1].seen:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        upstreams[1].pause.set()
        head, body = await asking
        assert head.startswith(b"HTTP/1.1 200")
        assert b'"two"' in body
        assert line.hits == 1
    assert [stand.gateway.servers.get(each).outstanding for each in targets] == [0, 0]


async def test_an_answer_that_comes_in_drops(stand):  # noqa: F811
    """It is whole, and the connection carries the next request."""
    answers = 0

    async def act(writer):
        nonlocal answers
        answers += 1
        for byte in (
            b'HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 3\r\n\r\n"%d"' % answers
        ):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.001)
        return True

    async with RawServer(act) as server:
        stand.follow(application(Target("127.0.0.1", server.port)))
        async with Line(stand) as line:
            found = [await line.ask(request(b"{}")) for _ in range(4)]
            assert line.hits == 3
    assert [body for _, body in found] == [b'"1"', b'"2"', b'"3"', b'"4"']
    assert {head for head, _ in found} == {found[0][0]}
    assert found[0][0].count(b"X-A") == 2
    assert server.asked == 4
