"""Clients that do not read, or send too much: they hold up themselves and nobody else.

The server runs in a process of its own, on the event loop that ``mataserver serve`` uses, so that
its memory and its descriptors can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from conftest import picture
from stream_peers import (
    BINARY,
    CLOSE,
    PING,
    PNG,
    PONG,
    TEXT,
    RawPeer,
    delete_session,
    eventually,
    frame,
    infer,
    no_connection,
    open_session,
    open_url,
    server_apart,
    session_info,
    session_of,
)

pytestmark = pytest.mark.long

WINDOW = 4
LARGE = picture(width=2500, height=2000)
LARGE_RESULT = 2500 * 2000 * 4  # bytes of its depth map, before base64
SLACK = 48_000_000


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """A server that waits long for clients that do not read."""
    with server_apart(tmp_path_factory.mktemp("patient"), engine="thread") as server:
        yield server


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server that soon gives up clients that do not read."""
    folder = tmp_path_factory.mktemp("strict")
    settings = {"unread_timeout": 1.5, "ping_interval": 0.5, "max_sessions": 100}
    with server_apart(folder, engine="thread", **settings) as server:
        yield server


async def info_when(http, session_id, check):
    """Wait until ``check`` holds for what the server says of the session; return it."""

    async def holds():
        info = await session_info(http, session_id)
        return info if check(info) else None

    return await eventually(holds)


async def descriptors_back(server, http, before):
    """Wait until the server holds no more descriptors than ``before``: the socket is gone."""
    await no_connection(http)

    async def back():
        return server.descriptors() <= before

    await eventually(back)


@contextlib.asynccontextmanager
async def sending(peer, data):
    """Send ``data`` over and over in the background, until the end or until it is cut off.

    Yields the list of what was sent; its length is that of the flood so far.
    """
    stop = asyncio.Event()
    sent = []

    async def send():
        with contextlib.suppress(ConnectionError, TimeoutError):
            while not stop.is_set():
                await peer.send(data)
                sent.append(data)
                await asyncio.sleep(0)

    task = asyncio.create_task(send())
    try:
        yield sent
    finally:
        stop.set()
        await task


async def test_a_client_that_does_not_read_pauses_only_itself(patient):
    """After four unread results its frames replace each other; others are served; then it goes on.

    The frames that it missed are counted in ``dropped``.
    """
    async with patient.http() as http:
        url = await open_url(http, "fake-track")
        session_id = session_of(url)
        async with RawPeer.connected(url) as peer:
            async with sending(peer, frame(BINARY, PNG)) as sent:
                await info_when(http, session_id, lambda i: i["results"] == WINDOW)
                await info_when(http, session_id, lambda i: i["dropped"] >= 20)
            # Frames may still be on their way; the last of them is the one that waits.
            await info_when(http, session_id, lambda i: i["frames"] == len(sent))
            async with http.ws_connect(f"/v1/stream/{await open_session(http)}") as other:
                for number in range(20):
                    await other.send_bytes(PNG)
                    assert (await other.receive_json(timeout=10))["frame_id"] == number
                    assert await infer(http, "fake-track") == 200
            info = await session_info(http, session_id)
            assert info["results"] == WINDOW
            assert info["frames"] - info["dropped"] - info["results"] == 1
            kinds = []
            for _ in range(2 * WINDOW):
                opcode, payload = await peer.receive()
                kinds.append(opcode)
                if opcode == PING:
                    await peer.send(frame(PONG, payload))
            assert kinds == [TEXT, PING] * WINDOW
            opcode, payload = await peer.receive()
            assert opcode == TEXT
            assert f'"frame_id":{info["frames"] - 1}'.encode() in payload
            assert f'"dropped":{info["dropped"]}'.encode() in payload
            assert f'"track_id":{WINDOW + 1}'.encode() in payload


async def test_one_pong_answers_all_pings_before_it(patient):
    """A client that answers only the latest ping has read the results before it, too."""
    async with patient.http() as http:
        url = await open_url(http)
        async with RawPeer.connected(url) as peer:
            for count in (WINDOW, 2 * WINDOW):
                async with sending(peer, frame(BINARY, PNG)):
                    await info_when(http, session_of(url), lambda i, c=count: i["results"] == c)
                for _ in range(2 * WINDOW):
                    _, payload = await peer.receive()
                await peer.send(frame(PONG, payload))


async def test_errors_count_like_results(patient):
    """Answers to bad frames are held back from a client that does not read, too."""
    async with patient.http() as http:
        url = await open_url(http)
        async with RawPeer.connected(url) as peer:
            async with sending(peer, frame(BINARY, b"no picture")):

                def paused(info):
                    return info["frames"] - info["dropped"] == WINDOW + 1

                await info_when(http, session_of(url), paused)
                await info_when(http, session_of(url), lambda i: i["dropped"] >= 20)
            assert paused(await session_info(http, session_of(url)))


async def test_a_client_that_reads_nothing_gets_1001(strict):
    """Without a pong for too long the socket is closed with 1001, which can be read later."""
    async with strict.http() as http:
        url = await open_url(http)
        async with RawPeer.connected(url) as peer:
            await peer.send(frame(BINARY, PNG))
            await no_connection(http)
            assert await peer.close_code() == 1001
        assert (await session_info(http, session_of(url)))["results"] == 1


async def test_a_dead_client_that_sends_nothing_gets_1001(strict):
    """A client without frames is pinged; when it does not answer it is closed with 1001."""
    async with strict.http() as http, RawPeer.connected(await open_url(http)) as peer:
        await no_connection(http)
        assert await peer.close_code() == 1001


async def test_a_slow_reader_is_not_given_up(strict):
    """A client that reads one result after the other, slower than they are made, stays."""
    async with strict.http() as http:
        url = await open_url(http)
        async with RawPeer.connected(url) as peer, sending(peer, frame(BINARY, PNG)):
            loop = asyncio.get_running_loop()
            begun, results = loop.time(), 0
            while loop.time() - begun < 2.5 or results < 2 * WINDOW:
                opcode, payload = await peer.receive()
                assert opcode in {TEXT, PING}
                if opcode == PING:
                    await peer.send(frame(PONG, payload))
                    results += 1
                    await asyncio.sleep(0.15)
        assert (await session_info(http, session_of(url)))["dropped"] > 0


async def test_large_results_that_nobody_takes(strict):
    """A client that does not take a result of 27 MB is cut off: no descriptor, no memory is left.

    What the server held for it is thrown away, not kept until the client reads.
    """
    async with strict.http() as http:
        assert await infer(http, "fake-depth", LARGE) == 200
        before, memory = strict.descriptors(), strict.memory()
        url = await open_url(http, "fake-depth")
        async with RawPeer.connected(url, receive_buffer=4096) as peer:
            await peer.send(frame(BINARY, LARGE))
            await info_when(http, session_of(url), lambda i: i["results"] > 0)
            await descriptors_back(strict, http, before)
            assert await peer.rest() < LARGE_RESULT
        assert strict.memory() - memory < 3 * LARGE_RESULT


async def test_deleting_the_session_of_a_client_that_reads_nothing(patient):
    """DELETE is answered at once though the socket is stuck; the socket is cut off."""
    async with patient.http() as http:
        assert await infer(http, "fake-depth", LARGE) == 200
        before = patient.descriptors()
        url = await open_url(http, "fake-depth")
        async with RawPeer.connected(url, receive_buffer=4096) as peer:
            await peer.send(frame(BINARY, LARGE))
            await info_when(http, session_of(url), lambda i: i["results"] > 0)
            assert await delete_session(http, session_of(url)) == 204
            await descriptors_back(patient, http, before)
            assert await peer.rest() < LARGE_RESULT


async def test_a_closing_client_still_gets_what_is_on_its_way(patient):
    """A client that closes while a large result is under way gets the rest of it if it reads."""
    async with patient.http() as http:
        url = await open_url(http, "fake-depth")
        async with RawPeer.connected(url) as peer:
            await peer.send(frame(BINARY, LARGE))
            await info_when(http, session_of(url), lambda i: i["results"] > 0)
            await peer.send(frame(CLOSE, b"\x03\xe8"))
            opcode, payload = await peer.receive()
            assert opcode == TEXT
            assert len(payload) > LARGE_RESULT
            assert await peer.close_code() == 1000


FLOODS = {
    "large frames": frame(BINARY, os.urandom(1_000_000)),
    "empty frames": frame(BINARY) * 10_000,
    "text pings": frame(TEXT, b'{"type": "ping"}') * 1_000,
    "bad text": frame(TEXT, b"?") * 1_000,
    "protocol pings": frame(PING, bytes(125)) * 1_000,
}


async def test_floods_from_clients_that_read_nothing(strict):
    """Floods of every kind at once: memory stays flat, others are served, each is cut off."""
    async with strict.http() as http, contextlib.AsyncExitStack() as stack:
        assert await infer(http) == 200
        before, memory = strict.descriptors(), strict.memory()
        for data in FLOODS.values():
            connecting = RawPeer.connected(await open_url(http), receive_buffer=4096)
            peer = await stack.enter_async_context(connecting)
            await stack.enter_async_context(sending(peer, data))
        for _ in range(20):
            assert await infer(http) == 200
            assert strict.memory() - memory < SLACK
        await descriptors_back(strict, http, before)


async def test_a_flood_from_a_stranger(strict):
    """A client without a key that floods is refused; memory stays flat."""
    async with strict.http() as http:
        assert await infer(http) == 200
        before, memory = strict.descriptors(), strict.memory()
        url = (await open_url(http)).replace("test-key", "wrong")
        data = frame(BINARY, os.urandom(900_000))
        async with RawPeer.connected(url) as peer, sending(peer, data):
            assert await peer.close_code() == 4001
            assert strict.memory() - memory < SLACK
            await descriptors_back(strict, http, before)
