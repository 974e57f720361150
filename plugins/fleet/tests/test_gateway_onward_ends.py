"""Large bodies on their way: clients and servers that stop, leave, die or do not answer."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_reader import (
    count,
    free,
    large,
    learnt,
    tensors,
    well,
)
from gateway_stand import application, eventually, stand, targets, upstreams  # noqa: F401
from test_gateway_heads import Line


@pytest.mark.parametrize("came", [300_000, 2_000_000])
async def test_a_client_that_stops(stand, came):  # noqa: F811
    """It is told 408 and its connection ends; the server's does too, so that no half one counts."""
    async with learnt(stand, well) as (server, line):
        sent = tensors(large())
        head, _ = await line.ask(sent[:came])
        assert head.startswith(b"HTTP/1.1 408")
        assert await line.reader.read() == b""
        await eventually(lambda: server.ended == 1 and free(stand, server))
        assert server.came[1] < came
        requests, failed, taken = await count(stand)
        assert (requests, failed, taken) == (2, 0, came - sent.index(b"\r\n\r\n") - 4 + 2)
        assert not stand.gateway.servers.get(server.target).is_suspect


async def test_a_client_that_sends_next_to_nothing(stand):  # noqa: F811
    """A byte now and then does not hold a server's connection for ever."""
    async with learnt(stand, well) as (server, line):
        sent = tensors(large())
        line.writer.write(sent[:300_000])
        answer = asyncio.ensure_future(line.read())
        for at in range(300_000, 300_600):
            line.writer.write(sent[at : at + 1])
            await asyncio.sleep(0.02)
            if answer.done():
                break
        assert (await answer)[0].startswith(b"HTTP/1.1 408")
        await eventually(lambda: server.ended == 1 and free(stand, server))


async def test_a_client_that_leaves(stand):  # noqa: F811
    """The server's connection ends with it, and is not used again."""
    async with learnt(stand, well) as (server, line):
        line.writer.write(tensors(large())[:1_000_000])
        await eventually(lambda: len(server.came) == 2 and server.came[1] > 900_000)
        line.writer.transport.abort()
        await eventually(lambda: server.ended == 1 and free(stand, server))
        async with Line(stand) as other:
            assert (await other.ask(tensors(large())))[1] == b"hi"
    assert server.came[0] == 2
    assert server.came[2] == 3_000_000
    assert (await count(stand))[:2] == (3, 0)


@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_before_the_body_is_here(stand, closes):  # noqa: F811
    """It goes back at once; the rest is dropped, whatever it looks like, and the next is new."""
    early = b"HTTP/1.1 422 No\r\nContent-Length: 3\r\n\r\nbad"

    async def act(_server, body, writer):
        if body.number > 1:
            await well(_server, body, writer)
            return
        await body.read(400_000)
        writer.write(early)
        await writer.drain()
        if closes:
            raise ConnectionError
        await body.read()

    async with learnt(stand, act) as (server, line):
        inner = tensors(b"{}")
        body = b"{}" + bytes(999_998) + inner * 20_000
        sent = tensors(body)
        head, answer = await line.ask(sent[:1_000_000])
        assert (head[9:12], answer) == (b"422", b"bad")
        await eventually(lambda: free(stand, server) and server.ended == 1)
        rest = sent[1_000_000:] + tensors(b"{}")
        head, answer = await line.ask(rest)
        assert (head[9:12], answer) == (b"200", b"hi")
        await asyncio.sleep(0.1)
        assert len(server.came) == 3
        assert await count(stand) == (3, 0, (await count(stand))[2])
        assert free(stand, server)


async def test_the_rest_of_a_body_that_does_not_come(stand):  # noqa: F811
    """After an early answer the connection ends, for the rest cannot be told from a request."""

    async def act(_server, body, writer):
        await body.read(400_000)
        writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 3\r\n\r\nbad")

    async with learnt(stand, act) as (server, line):
        head, _ = await line.ask(tensors(large())[:1_000_000])
        assert head.startswith(b"HTTP/1.1 422")
        async with asyncio.timeout(30):
            assert await line.reader.read() == b""
        await eventually(lambda: free(stand, server))


async def test_a_server_that_dies(stand, upstreams, targets):  # noqa: F811
    """The client is told 502 and nobody else is asked: half of it was sent."""

    async def act(_server, body, writer):
        await body.read(400_000)
        writer.transport.abort()

    async with learnt(stand, act) as (server, line):
        stand.follow(application(server.target, targets[0]))
        stand.gateway.servers.get(targets[0]).outstanding = 100  # so that it is not asked first
        assert (await line.ask(tensors(b"{}")))[0].startswith(b"HTTP/1.1 200")
        sent = tensors(large())
        head, _ = await line.ask(sent[:1_000_000])
        assert head.startswith(b"HTTP/1.1 502")
        assert upstreams[0].seen == []
        assert stand.gateway.servers.get(server.target).outstanding == 0
        stand.gateway.servers.get(targets[0]).outstanding = 0
        # The connection is whole: the rest is dropped, and the next request answered.
        head, _ = await line.ask(sent[1_000_000:] + tensors(b"{}"))
        assert head.startswith(b"HTTP/1.1 200")
    assert (await count(stand))[:2] == (4, 1)


async def test_where_asking_twice_is_harmless(stand, upstreams, targets):  # noqa: F811
    """The body is kept, and another is asked with all of it."""

    async def act(_server, body, writer):
        await body.read(400_000)
        writer.transport.abort()

    async with learnt(stand, act, resend=True) as (server, line):
        stand.follow(application(server.target, targets[0], resend=True))
        stand.gateway.servers.get(targets[0]).outstanding = 100
        stand.gateway.servers.get(server.target).outstanding = 0
        body = large()
        await line.ask(tensors(b"{}"))
        head, answer = await line.ask(tensors(body))
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(answer)["size"] == 3_000_000
        assert upstreams[0].seen[-1].size == 3_000_000


async def test_a_server_that_takes_no_more(stand):  # noqa: F811
    """It is 504 once that has lasted for the application's time."""

    async def act(_server, body, _writer):
        await body.read(400_000)
        await asyncio.sleep(60)

    async with learnt(stand, act, timeout=0.6) as (server, line):
        head, answer = await line.ask(tensors(large(8_000_000)))
        assert head.startswith(b"HTTP/1.1 504")
        assert b"0.6 s" in answer
        await eventually(lambda: free(stand, server))


async def test_a_server_that_does_not_answer(stand):  # noqa: F811
    """The time for it begins with the end of the body, however long that took."""

    async def act(_server, body, _writer):
        await body.read()
        await asyncio.sleep(60)

    async with learnt(stand, act, timeout=0.6) as (server, line):
        sent = tensors(large(1_000_000))
        for at in range(0, len(sent), 100_000):
            line.writer.write(sent[at : at + 100_000])
            await asyncio.sleep(0.1)
        begun = asyncio.get_running_loop().time()
        head, _ = await line.ask(b"")
        assert head.startswith(b"HTTP/1.1 504")
        assert asyncio.get_running_loop().time() - begun > 0.3
        await eventually(lambda: free(stand, server))
