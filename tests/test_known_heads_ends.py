"""Requests whose head is known: clients that leave, servers that end, whose a head is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re

import pytest

from api_answers import answer, detail_of, until
from known_heads import ASKED, HEAD, LONG, SLOWLY, peer, peer_of
from mataserver import testing
from mataserver.app import running
from mataserver.http.budget import BudgetShare
from mataserver.http.connection_limit import ListeningSite
from mataserver.http.head_connection import CachingConnection
from mataserver.http.head_requests import KnownRequest
from mataserver.http.unread_output import AnonymousOutput
from mataserver.testing.serving import KEY, compose
from odd_requests import PICTURE

__all__ = ["peer"]


async def counted(http, status):
    """Return how many inferences were counted with a status."""
    async with http.get("/metrics") as response:
        text = await response.text()
    label = rf'mataserver_requests_total\{{method="POST",route="/v1/infer",status="{status}"\}} '
    found = re.search(label + r"(\d+)", text)
    return int(found[1]) if found else 0


async def test_who_leaves_amid_a_body(http, peer, caplog):
    """A connection that breaks amid a known request's body leaves nothing, and is counted."""
    peer.writer.write(ASKED[:-10])
    await until(lambda: peer.budget.taken > 0, LONG)
    peer.writer.transport.abort()
    await until(lambda: peer.budget.taken == 0, LONG)
    assert peer.lifecycle.active == 0
    assert await counted(http, 499) == 1
    assert not caplog.records


async def test_who_leaves_during_the_inference(server, http, caplog):
    """A known request whose client left is dropped, and is counted."""
    async with peer_of(server) as peer:
        await peer.warm(SLOWLY)
        peer.writer.write(SLOWLY)
        await until(lambda: peer.lifecycle.active == 1, LONG)
        peer.writer.transport.abort()
        await until(lambda: peer.lifecycle.active == 0, LONG)
        assert peer.budget.taken == 0
    assert await counted(http, 499) == 1
    assert not caplog.records


async def test_known_requests_are_counted(http, peer):
    """The metrics count them by route and status, as others."""
    before = await counted(http, 200)
    for _ in range(3):
        await peer.ask(ASKED)
    assert await counted(http, 200) == before + 3


async def test_a_draining_server_takes_no_known_request(peer):
    """While it shuts down a known request is 503, and the connection is closed."""
    peer.lifecycle.stopping.set()
    (status, headers, body), hits = await peer.hits(ASKED)
    assert (status, headers["connection"], hits) == (503, "close", 0)
    assert detail_of(body) == "The server is shutting down"


@pytest.mark.parametrize("cut", [len(HEAD) + 50, len(ASKED)])
async def test_what_is_under_way_at_the_end_is_answered(data_dir, cut):
    """A known request that has begun when the server is told to stop is answered, as the last."""
    serving = testing.serving(data_dir, engine="thread")
    served = await serving.__aenter__()
    asked = SLOWLY if cut == len(ASKED) else ASKED
    cut = len(asked) if asked is SLOWLY else cut
    async with peer_of(served) as peer:
        await peer.warm(asked)
        peer.writer.write(asked[:cut])
        await until(lambda: peer.lifecycle.active == 1, LONG)
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        await until(lambda: peer.lifecycle.is_draining, LONG)
        peer.writer.write(asked[cut:])
        status, headers, _ = await peer.read()
        assert (status, headers["connection"]) == (200, "close")
        assert await peer.rest() == b""
    await stopping


async def test_a_server_that_waits_no_longer(data_dir):
    """A known request that outlasts the drain does not hold up the end."""
    serving = testing.serving(data_dir, engine="thread", drain_timeout=0.5)
    served = await serving.__aenter__()
    async with peer_of(served) as peer:
        await peer.warm()
        peer.writer.write(ASKED[:-1])
        await until(lambda: peer.lifecycle.active == 1, LONG)
        await asyncio.wait_for(serving.__aexit__(None, None, None), LONG)
        await peer.rest()
    assert peer.lifecycle.active == 0
    assert peer.budget.taken == 0


async def test_an_idle_connection_ends_and_a_busy_one_does_not(data_dir):
    """When the time of an idle connection is over, one with a known request is answered first."""
    composed, key = compose(data_dir, [testing.FAKE], engine="thread")
    runner, made = running.make_runner(composed), []

    def converse(server):
        share = functools.partial(BudgetShare, composed.budget)
        options = {
            "loop": asyncio.get_running_loop(),
            "patience": LONG,
            **running.CONNECTION_OPTIONS,
        }
        options["anonymous"] = AnonymousOutput(1e6)
        made.append(CachingConnection(server, share, cache=composed.heads, **options))
        return made[-1]

    await runner.setup()
    try:
        await ListeningSite(runner, "127.0.0.1", 0, 0, converse).start()
        served = testing.Served(f"http://127.0.0.1:{runner.addresses[0][1]}", key, composed)
        async with peer_of(served) as peer:
            await peer.warm(SLOWLY)
            peer.writer.write(SLOWLY)
            await until(lambda: peer.lifecycle.active == 1, LONG)
            over(made[0])
            assert (await peer.read())[0] == 200
            over(made[0])
            assert await peer.rest() == b""
    finally:
        await running.stop(runner, composed)


def over(conversation):
    """Have the time of an idle connection be over."""
    conversation._next_keepalive_close_time = 0.0
    conversation._process_keepalive()


BARE = HEAD.replace(f"X-API-Key: {KEY}\r\n".encode(), b"")
"""A plain request's head without a key: it is answered 401 before its body is read."""


async def test_no_head_is_learnt_for_the_request_behind_it(server):
    """What was refused stays so, though its body ended in the piece that the next one came in."""
    assert BARE != HEAD
    async with peer_of(server) as peer:
        peer.writer.write(BARE + PICTURE[:2])
        await asyncio.sleep(0.05)
        peer.writer.write(PICTURE[2:] + ASKED)
        statuses = [(await peer.read())[0]]
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError):
            statuses.append((await asyncio.wait_for(answer(peer.reader), 2.0))[0])
        assert statuses[0] == 401
    assert await refused(server)


async def test_no_head_is_learnt_for_the_request_after_it(server):
    """A refused head whose message may end elsewhere is not kept for the request after it."""
    odd = BARE.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")
    async with peer_of(server) as peer:
        assert (await peer.ask(odd + PICTURE))[0] == 401
        peer.writer.write(ASKED)
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            await asyncio.wait_for(answer(peer.reader), 2.0)
    async with peer_of(server) as peer:
        assert (await peer.ask(odd + PICTURE))[0] == 401


async def refused(served):
    """Whether a request without a key is refused, again and again."""
    async with peer_of(served) as peer:
        first = (await peer.ask(BARE + PICTURE))[0]
    async with peer_of(served) as peer:
        return (first, (await peer.ask(BARE + PICTURE))[0]) == (401, 401)


async def test_a_connect_is_no_message_with_a_body(peer):
    """A parser ends it at its head: what follows is a request, and no known one amid it."""
    inner = b"POST /s HTTP/1.1\r\nHost: a\r\nX-J: "
    asked = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
    before = peer.cache.hits
    peer.writer.write(asked + inner)
    await asyncio.sleep(0.05)
    peer.writer.write(ASKED)
    with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, ConnectionError):
        await asyncio.wait_for(answer(peer.reader), 2.0)
    await asyncio.sleep(0.05)
    assert peer.cache.hits == before


def test_a_body_in_drops_is_kept_as_one():
    """As an object of its own each byte would take fifty times its room."""
    hit = object.__new__(KnownRequest)
    hit._pieces, hit._end = [b"head"], 4
    sent = [bytes((n % 256,)) for n in range(200_000)] + [b"y" * 10_000, b"z"]
    for each in sent:
        hit._buffer_body(each)
    assert len(hit._pieces) < 10
    assert hit._body() == b"".join(sent)
