"""Input in tiny pieces: others are served between them, and nothing of it is lost or reordered."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp.web_protocol import RequestHandler

from api_answers import connection, until
from conftest import picture
from mataserver.http.paced_input import SLICE_BYTES, PacedInput, first_slice
from mataserver.http.websocket_framing import FrameChecker
from mataserver.testing.serving import KEY
from stream_peers import BINARY, CONTINUATION, PNG, TEXT, RawPeer, frame, open_url

HEAD = (
    f"POST /v1/infer?model=fake-detect HTTP/1.1\r\nHost: here\r\nX-API-Key: {KEY}\r\n"
    "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
).encode()
LAST = b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
FRAMES = 64
"""Frames that are processed at a time."""


def in_chunks(body: bytes) -> bytes:
    """Return a body in chunks of one byte each."""
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


def in_fragments(body: bytes) -> bytes:
    """Return a message in fragments of one byte each."""
    pieces = [frame(BINARY, body[:1], fin=False)]
    pieces += [frame(CONTINUATION, body[at : at + 1], fin=False) for at in range(1, len(body))]
    return b"".join([*pieces, frame(CONTINUATION, b"")])


@pytest.fixture
def parsed(monkeypatch):
    """What aiohttp's parser of requests was given at a time."""
    given = []
    real = RequestHandler.data_received

    def record(self, data):
        given.append(data)
        real(self, data)

    monkeypatch.setattr(RequestHandler, "data_received", record)
    return given


async def test_a_body_in_tiny_chunks(server, parsed):
    """It is parsed by the slice, and answered; so is the request behind it."""
    body = picture(width=300, height=300)
    async with connection(server) as (reader, writer):
        writer.write(HEAD + in_chunks(body) + HEAD + in_chunks(body) + LAST)
        async with asyncio.timeout(30):
            got = await reader.read()
    assert got.count(b"HTTP/1.1 200 OK") == 3
    assert got.count(b'"detections"') == 2
    assert max(len(each) for each in parsed if each.count(b"\n") > 64) <= SLICE_BYTES


async def test_a_usual_body_comes_as_it_is_read(server, parsed):
    """A picture in chunks of its sender's size is not cut."""
    body = picture(width=300, height=300)
    whole = HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + LAST
    async with connection(server) as (reader, writer):
        writer.write(whole)
        async with asyncio.timeout(30):
            got = await reader.read()
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert SLICE_BYTES not in {len(each) for each in parsed}


async def test_a_message_in_tiny_fragments(server, http, monkeypatch):
    """It is read 64 frames at a time, and answered; so is the message behind it."""
    counts = []
    real = FrameChecker._start_frame

    def count(self, header):
        counts[-1] += 1
        real(self, header)

    def begin(self, data):
        counts.append(0)
        return feed(self, data)

    feed = FrameChecker.feed_data
    monkeypatch.setattr(FrameChecker, "_start_frame", count)
    monkeypatch.setattr(FrameChecker, "feed_data", begin)
    async with RawPeer.connected(await open_url(http)) as peer:
        await peer.send(in_fragments(PNG) + frame(TEXT, b'{"type": "ping"}'))
        told = [json.loads((await peer.receive())[1]) for _ in range(2)]
    assert {"type": "pong"} in told
    assert [each["detections"] for each in told if "detections" in each]
    assert sum(counts) > len(PNG)
    assert max(counts) <= FRAMES


@pytest.mark.parametrize("key", ["test-key", "wrong"])
async def test_others_are_served_during_a_flood(server, http, monkeypatch, key):
    """Also one of a client without a key: 64 frames, then whoever else has something to do."""
    fed = []
    real = FrameChecker.feed_data

    def feed(self, data):
        fed.append(asyncio.get_running_loop().time())
        asyncio.get_running_loop().call_soon(turns.append, len(fed))
        return real(self, data)

    turns: list[int] = []
    monkeypatch.setattr(FrameChecker, "feed_data", feed)
    url = (await open_url(http)).replace("test-key", key)
    async with RawPeer.connected(url) as peer:
        await peer.send(frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 2_000)
        await until(lambda: len(fed) >= 2_000 // FRAMES)
        await until(lambda: len(turns) == len(fed))
    assert turns == list(range(1, len(fed) + 1)), "each had its turn before the next slice"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"x" * 300_000, 300_000),
        (b"\n" * SLICE_BYTES, SLICE_BYTES),
        (b"\n" * 300_000, SLICE_BYTES),
        (b"Accept-Encoding: gzip, deflate, br, zstd, and some more of them\r\n" * 200, 13_000),
    ],
)
def test_what_takes_long(data, size):
    """Lines of a few bytes each, and more of them than one slice has."""
    assert first_slice(data) == size


async def test_the_order():
    """What is kept again comes before what was read meanwhile; reading goes on at the end."""
    events = []

    def process(data):
        events.append(data)
        if len(data) > 1:
            paced.keep(data[1:])

    paced = PacedInput(process, lambda: events.append("pause"), lambda: events.append("resume"))
    paced.keep(b"ab")
    assert paced.is_waiting
    paced.append(b"c")
    await asyncio.sleep(0)
    assert events == ["pause", "pause", b"abc", "pause"]
    paced.append(b"d")
    for _ in range(5):
        await asyncio.sleep(0)
    assert events[4:] == ["pause", b"bcd", "pause", b"cd", "pause", b"d", "resume"]
    assert not paced.is_waiting
    paced.keep(b"e")
    paced.end()
    await asyncio.sleep(0)
    assert events[-1] == "pause"
