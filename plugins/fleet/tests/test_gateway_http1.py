"""Answers of servers, read strictly: every cut of the bytes gives the same, doubt is refused."""

from __future__ import annotations

import asyncio
import random

import pytest
from rebinding import HttpWithResolver, RebindingResolver

from mataserver.http.in_process import InProcessConnector
from mataserver_fleet.gateway.connections import ConnectionPool
from mataserver_fleet.gateway.http1 import (
    MAX_HEAD_BYTES,
    MAX_HEADS,
    ChunkedDecoder,
    MalformedError,
    read_head,
)
from mataserver_fleet.gateway.resolving import AddressResolver
from mataserver_fleet.gateway.snapshot import Target

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b"3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"


def test_a_head():
    """Status, fields as they were sent, length, and whether the connection may be used again."""
    head = read_head(b"HTTP/1.1 201 Made it\r\nX-a:\t 1 \r\nx-A: 2\r\nContent-Length: 12")
    fields = ((b"X-a", b"1"), (b"x-A", b"2"), (b"Content-Length", b"12"))
    assert head == (201, fields, 12, False, 1)
    assert read_head(b"HTTP/1.1 200 ").keep_alive is False  # it ends with the connection
    assert read_head(b"HTTP/1.0 200\r\nContent-Length: 0").keep_alive is False
    assert read_head(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive").keep_alive
    assert not read_head(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close").keep_alive
    assert read_head(b"HTTP/1.1 204 No Content").length == 0
    assert read_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked").chunked


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 0200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x1",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nA: b\0",
        b"HTTP/1.1 200 OK\r\nA: b\x01",
        b"HTTP/1.1 200 OK\r\nA: b\x7f",
        b"HTTP/1.1 200 OK\r\nno field",
        b"HTTP/1.1 200 OK\r\n: empty",
    ],
)
def test_a_head_in_doubt(said):
    """What could be read in two ways is no answer."""
    with pytest.raises(MalformedError):
        read_head(said)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_body_in_chunks(step):
    """However the bytes are cut, the body is the same, and what follows it is told."""
    chunks, found, data = ChunkedDecoder(), b"", BODY + b"next"
    at = 0
    while not chunks.ended:
        found += chunks.feed(data[at : at + step])
        at += step
    assert found == b"abc0123456789"
    assert (chunks.rest + data[at:]) == b"next"


@pytest.mark.parametrize("seed", range(20))
def test_chunks_of_any_size(seed):
    """Tiny and large ones, however they are cut and spelt, hold what was put into them."""
    draw = random.Random(seed)
    pieces = [draw.randbytes(draw.choice([1, 2, 9, 10, 15, 16, 17, 300])) for _ in range(300)]
    spellings = ["%x", "%X", "0%x", "%x;a=b", "%x "]
    lines = [draw.choice(spellings) % len(piece) for piece in pieces]
    body = b"".join(
        line.encode() + b"\r\n" + piece + b"\r\n" for line, piece in zip(lines, pieces, strict=True)
    )
    chunks, found, data = ChunkedDecoder(), b"", body + b"0\r\n\r\n"
    while data:
        cut = draw.choice([1, 5, 100, 5_000])
        found += chunks.feed(data[:cut])
        data = data[cut:]
    assert (found, chunks.ended, chunks.rest) == (b"".join(pieces), True, b"")


@pytest.mark.parametrize("size", [1, 2, 15, 16, 50])
def test_tiny_chunks_are_read_many_at_a_time(size, monkeypatch):
    """A reading of small chunks must not hold up everybody else: none is a step of its own."""
    steps = []
    read_line = ChunkedDecoder._feed_line
    monkeypatch.setattr(
        ChunkedDecoder, "_feed_line", lambda self, line: (steps.append(1), read_line(self, line))
    )
    chunk = b"%x\r\n" % size + b"a" * size + b"\r\n"
    count = (1 << 18) // len(chunk)
    chunks = ChunkedDecoder()
    assert chunks.feed(chunk * count + b"3\r\nab") == b"a" * (size * count) + b"ab"
    assert chunks.feed(b"c\r\n0\r\n\r\n") == b"c"
    assert (chunks.ended, len(steps) < 10) == (True, True)


@pytest.mark.parametrize(
    "said",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"3\r\nabcd\r\n",
        b"1\r\na\r\n1\r\nab\r\n",
        b"1\r\na\r\n1\ra\r\n",
        b"1" * 16 + b"\r\n",
        b"3 x\r\n",
        b"x" * 70_000,
    ],
)
def test_chunks_in_doubt(said):
    """A size that is none, or that is not the chunk's."""
    with pytest.raises(MalformedError):
        ChunkedDecoder().feed(said)


@pytest.fixture
async def links():
    """Connections that are ended with the test."""
    clock = asyncio.get_running_loop().time
    made = ConnectionPool(
        clock,
        AddressResolver(HttpWithResolver(None, RebindingResolver())),
        InProcessConnector().connect,
    )
    yield made
    made.close()
    await asyncio.sleep(0.05)  # both ends see it


@pytest.fixture
async def serving():
    """Return what runs a server whose connections give some answers, one a request."""
    servers = []

    async def run(*answers):
        async def serve(reader, writer):
            for answer in answers:
                if not await reader.read(65_536):
                    break
                for piece in answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return servers[-1].sockets[0].getsockname()[1]

    yield run
    for each in servers:
        each.close()


async def asked(links, port):
    """Ask; return status and body, and the connection."""
    link = await links.acquire(Target("127.0.0.1", port))
    link.begin_request().write(b"GET / HTTP/1.1\r\n\r\n")
    link.end_request()
    try:
        head, body = await link.head(), b""
        while piece := await link.chunk():
            body += piece
        return head.status, body, link
    finally:
        links.release(Target("127.0.0.1", port), link)


async def test_connections_are_used_again(links, serving):
    """One that is in order carries the next request; what comes before an answer is passed over."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    port = await serving([early, plain], [CHUNKED + BODY[:9], BODY[9:]], [plain])
    found = [await asked(links, port) for _ in range(3)]
    assert [each[:2] for each in found] == [(200, b"ok"), (200, b"abc0123456789"), (200, b"ok")]
    assert len({id(each[2]) for each in found}) == 1


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\nto the ", b"end"], b"to the end"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"], b"ok"),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], b"ok"),
    ],
)
async def test_a_connection_that_is_used_once(links, serving, pieces, body):
    """An answer that ends with its connection, or says so: the next request has another."""
    port = await serving(pieces)
    first, second = [await asked(links, port) for _ in range(2)]
    assert (first[1], second[1]) == (body, body)
    assert first[2] is not second[2]


async def test_bytes_that_nobody_asked_for(links, serving):
    """A server that says more than its answer is not asked on that connection again."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    port = await serving([long, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
    first = await asked(links, port)
    await asyncio.sleep(0.1)
    second = await asked(links, port)
    assert (first[1], second[1]) == (b"ok", b"ok")
    assert first[2] is not second[2]


async def test_an_answer_that_does_not_begin_and_one_that_does_not_end(links, serving):
    """Heads of 1xx without end, and a trailer without end, are no answer."""
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    port = await serving([early * (MAX_HEADS - 1), plain], [early * MAX_HEADS, plain])
    assert (await asked(links, port))[:2] == (200, b"ok")
    with pytest.raises(MalformedError):
        await asked(links, port)
    lines = b"x: y\r\n" * (MAX_HEAD_BYTES // 4 + 1)
    port = await serving([CHUNKED + b"2\r\nok\r\n0\r\nx: y\r\n\r\n"], [CHUNKED + b"0\r\n" + lines])
    assert (await asked(links, port))[:2] == (200, b"ok")
    with pytest.raises(MalformedError):
        await asked(links, port)
