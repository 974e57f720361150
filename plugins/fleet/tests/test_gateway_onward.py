"""Large bodies, which a server is sent while they arrive: what may go wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket

import pytest
from gateway_reader import (
    ANSWER,
    OURS,
    count,
    free,
    large,
    learnt,
    tensors,
    well,
)
from gateway_stand import (  # noqa: F401
    KEY,
    application,
    consumer,
    eventually,
    stand,
    targets,
    upstreams,
)
from test_gateway_heads import Line, request

from mataserver_fleet.gateway.bodies import LARGE_PIECE_BYTES, PIECE_BYTES


@pytest.mark.parametrize("size", [PIECE_BYTES + 1, 3_000_000, 7_999_999])
async def test_the_same_body(stand, upstreams, targets, size):  # noqa: F811
    """It arrives as it was sent, with its length, however it is cut; and so does the next one."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        first, _ = await line.ask(tensors(b"{}"))
        for cut in ((), (1000,), (200, 201, 70_000), (-1,)):
            body = large(size)
            sent = tensors(body)
            at = [0, *(each if each > 0 else len(sent) + each for each in cut), len(sent)]
            head, answer = await line.ask(*(sent[a:b] for a, b in itertools.pairwise(at)))
            seen, told = upstreams[0].seen[-1], json.loads(answer)
            assert (told["size"], told["sha"]) == (size, seen.sha)
            assert seen.headers.getall("Content-Length") == [str(size)]
            assert "Transfer-Encoding" not in seen.headers
            assert head.replace(str(len(answer)).encode(), b"") == first.replace(
                first.rpartition(b"Content-Length: ")[2].partition(b"\r\n")[0], b""
            )
        assert line.hits == 4
    assert await count(stand) == (5, 0, 4 * size + 2)


async def test_it_is_sent_while_it_arrives(stand):  # noqa: F811
    """The server has what came before the client has sent the rest; no task waits for that."""
    async with learnt(stand, well) as (server, line):
        sent = tensors(large())
        line.writer.write(sent[:2_000_000])
        await eventually(lambda: server.came[-1] > 1_900_000)
        assert not [t for t in asyncio.all_tasks() if "_respond" in repr(t.get_coro())]
        assert stand.server.composed.budget.taken < OURS
        assert (await line.ask(sent[2_000_000:]))[1] == b"hi"
        assert server.came[-1] == 3_000_000
        await eventually(lambda: free(stand, server))


async def test_a_server_that_does_not_read(stand):  # noqa: F811
    """The client is read no further, and a small part of the body is in memory; then all comes."""
    go = asyncio.Event()

    async def act(_server, body, writer):
        await go.wait()
        await body.read()
        writer.write(ANSWER)

    async with learnt(stand, act) as (server, line):
        lines = [line]
        async with contextlib.AsyncExitStack() as stack:
            lines += [await stack.enter_async_context(Line(stand)) for _ in range(3)]
            # Each has a connection to the server then.
            go.set()
            await asyncio.gather(*(each.ask(tensors(b"{}")) for each in lines))
            go.clear()
            asking = [asyncio.ensure_future(each.ask(tensors(large(8_000_000)))) for each in lines]
            await eventually(lambda: stand.server.composed.budget.taken > 4 * LARGE_PIECE_BYTES)
            await asyncio.sleep(1.2)  # longer than a client may pause
            assert stand.server.composed.budget.taken < 4 * OURS
            assert sum(server.came[-4:]) < 8_000_000
            go.set()
            assert [body for _, body in await asyncio.gather(*asking)] == [b"hi"] * 4
        assert server.came[-4:] == [8_000_000] * 4
        await eventually(lambda: free(stand, server))


async def test_drops_are_gathered(stand):  # noqa: F811
    """A server gets pieces of some size, however the body comes: one of 2025 dies of drops."""
    bodies = []

    async def act(_server, body, writer):
        bodies.append(body)
        await well(_server, body, writer)

    async with learnt(stand, act) as (server, line):
        line.writer.transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        sent = tensors(large(500_000))
        for at in range(0, len(sent), 1_000):
            line.writer.write(sent[at : at + 1_000])
            await line.writer.drain()
            await asyncio.sleep(0)
        assert (await line.read())[1] == b"hi"
        assert server.came[-1] == 500_000
    assert len(bodies[0].reads) < 4 * 500_000 / LARGE_PIECE_BYTES


async def test_a_mirror_has_all_of_it(stand, upstreams, targets):  # noqa: F811
    """A body of which there is to be a copy is kept."""
    stand.follow(application(*targets[:1], route={"mirror": "2"}))
    async with Line(stand) as line:
        for _ in range(2):
            await line.ask(tensors(large()))
    await eventually(lambda: len(upstreams[0].seen) == 4)
    assert [each.size for each in upstreams[0].seen] == [3_000_000] * 4
    assert len({each.sha for each in upstreams[0].seen}) == 2


async def test_a_slow_client_is_answered(stand):  # noqa: F811
    """One that sends on is waited for, longer than a server may take."""
    async with learnt(stand, well, timeout=0.3) as (_, line):
        sent = tensors(large(1_000_000))
        for at in range(0, len(sent), 100_000):
            line.writer.write(sent[at : at + 100_000])
            await asyncio.sleep(0.1)
        assert (await line.ask(b""))[1] == b"hi"
        assert line.hits == 1


async def test_limits(stand, upstreams, targets):  # noqa: F811
    """Each counts once, and one that is too many is not sent."""
    limited = consumer(1, KEY, rate=3)
    stand.follow(application(*targets[:1]), consumers=[limited])
    async with Line(stand) as line:
        found = [(await line.ask(tensors(large())))[0][9:12] for _ in range(4)]
    assert found == [b"200"] * 3 + [b"429"]
    assert len(upstreams[0].seen) == 3
    assert await count(stand) == (3, 0, 9_000_000)


async def test_one_behind_the_other(stand, targets):  # noqa: F811
    """What comes with the end of a body is the next request."""
    stand.follow(application(*targets[:1]))
    async with Line(stand) as line:
        await line.ask(tensors(b"{}"))
        sizes = (3_000_000, 10, 2_000_000, 400_000)
        line.writer.write(b"".join(tensors(large(size)) for size in sizes))
        async with asyncio.timeout(30):
            found = [json.loads((await line.read())[1])["size"] for _ in sizes]
    assert found == list(sizes)


@pytest.mark.parametrize("told", [True, False])
async def test_what_a_body_may_not_say(stand, upstreams, targets, told):  # noqa: F811
    """Shared memory is refused, and nothing of such a body is sent."""
    stand.follow(application(*targets[:1]))
    text = b'{"inputs":[{"parameters":{"shared_memory_region":"a"}}]}'
    lines = [f"Inference-Header-Content-Length: {len(text) if told else 600_000}"]
    body = text + bytes(1_000_000) if told else bytes(500_000).replace(b"\0", b" ") + text
    body += bytes(1_000_000)
    async with Line(stand) as line:
        await line.ask(request(b" " * 600_000, *lines))
        seen = len(upstreams[0].seen)
        sent = request(body, *lines)
        head, _ = await line.ask(sent[:100_000], sent[100_000:])
        assert head.startswith(b"HTTP/1.1 400")
    assert len(upstreams[0].seen) == seen == 1


async def test_a_sequence_is_seen(stand, upstreams, targets):  # noqa: F811
    """A large body that says a sequence is one of it: it goes where that began."""
    stand.follow(application(*targets))
    text = b'{"parameters":{"sequence_id":7,"sequence_start":%b}}'
    lines = [f"Inference-Header-Content-Length: {len(text % b'false')}"]
    found = set()
    async with Line(stand) as line:
        for start in (b"true ", *[b"false"] * 8):
            _, answer = await line.ask(request(text % start + large(), *lines))
            found.add(json.loads(answer)["server"])
    assert len(found) == 1


async def test_a_model_that_went(stand):  # noqa: F811
    """A server that answers 400 for it has it no more: 503, for nobody else has the body."""

    async def act(server, body, writer):
        await body.read()
        server.ready = b"400 No"
        writer.write(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno")

    async with learnt(stand, act) as (server, line):
        head, _ = await line.ask(tensors(large()))
        assert head.startswith(b"HTTP/1.1 503")
        await eventually(lambda: free(stand, server))


async def test_many_at_once(stand):  # noqa: F811
    """What is in memory of bodies that arrive does not grow with them."""
    budget, most = stand.server.composed.budget, []

    async def act(_server, body, writer):
        await eventually(lambda: most or budget.taken > OURS)  # each is full
        while body.left:
            most.append(budget.taken)
            await body.read(200_000)
        writer.write(ANSWER)

    async with contextlib.AsyncExitStack() as stack:
        server, line = await stack.enter_async_context(learnt(stand, act))
        lines = [line, *[await stack.enter_async_context(Line(stand)) for _ in range(15)]]
        for size in (10, 7_900_000):
            sent = tensors(large(size))
            found = await asyncio.gather(*(each.ask(sent) for each in lines))
            assert [body for _, body in found] == [b"hi"] * 16
        assert OURS < max(most) < 16 * OURS / 2
        await eventually(lambda: free(stand, server))


@pytest.mark.parametrize("seed", range(3))
async def test_one_after_the_other_whatever_happens(stand, seed):  # noqa: F811
    """On one connection each request gets its own answer, and no byte of a body becomes another."""
    draw = random.Random(seed)
    fates = []

    async def act(_server, body, writer):
        fate, size = fates[-1], body.left
        await body.read(draw.randrange(1, size) if fate in {"early", "amid"} else size)
        if fate == "well":
            writer.write(ANSWER)
            return
        if fate == "early":
            writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 3\r\n\r\nbad")
            await writer.drain()
            if draw.random() < 0.5:
                await body.read()
                return
        writer.transport.abort()
        raise ConnectionError

    told = {"well": {b"200"}, "early": {b"422", b"502"}, "amid": {b"502"}, "after": {b"502"}}
    async with learnt(stand, act, retries=0) as (server, line):
        inner = tensors(b"{}")
        for _ in range(20):
            fates.append(draw.choice(["well", *told]))
            size = draw.choice([PIECE_BYTES + 1, 1_000_000, 3_000_000])
            sent = tensors((b"{}" + inner * (size // len(inner) + 1))[:size])
            cuts = sorted(draw.randrange(len(sent)) for _ in range(draw.choice([0, 1, 3])))
            for begin, end in itertools.pairwise([0, *cuts, len(sent)]):
                line.writer.write(sent[begin:end])
                await asyncio.sleep(draw.choice([0, 0.001, 0.02]))
            async with asyncio.timeout(30):
                head, _ = await line.read()
            assert head[9:12] in told[fates[-1]], fates
            if fates[-1] != "well":
                await eventually(lambda: not stand.gateway.servers.get(server.target).is_suspect)
        await eventually(lambda: free(stand, server))
    assert len(server.came) == line.hits + 1 == 21
