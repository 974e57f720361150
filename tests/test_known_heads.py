"""Requests whose head is known: a client cannot tell them from others, whatever it does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import functools
import itertools
import json
import random
import re
import socket

import pytest

from api_answers import asking, detail_of, until
from conftest import picture, register
from known_heads import ASKED, HEAD, LONG, SLOWLY, label, peer, peer_of, retitled
from mataserver import testing
from mataserver.http.head_cache import MAX_BODY
from mataserver.http.in_process import InProcessTransport
from mataserver.serving.background import BACKGROUND
from mataserver.testing.serving import DEFAULTS
from odd_requests import INFER, JPEG, LAST, PICTURE, REQUESTS, VARYING, request

__all__ = ["peer"]


async def told(served, asked, cuts):
    """Return all that is answered behind two known requests, without what differs by time."""
    loop, data, found = asyncio.get_running_loop(), asked + LAST, bytearray()
    with socket.socket() as sock:
        sock.settimeout(0)
        host, port = served.url.removeprefix("http://").split(":")
        await loop.sock_connect(sock, (host, int(port)))
        answers = asyncio.create_task(collect(sock, found))
        for count in (1, 2):
            await loop.sock_sendall(sock, ASKED)
            await until(lambda count=count: found.count(b"bbox") == count, LONG)
        with contextlib.suppress(ConnectionError):  # the server has heard enough
            for begin, end in itertools.pairwise([0, *cuts, len(data)]):
                await loop.sock_sendall(sock, data[begin:end])
                await asyncio.sleep(0.001)
        await answers
    return VARYING.sub(b"...", bytes(found))


async def collect(sock, found):
    """Add what comes until the server closes a connection, in whatever way."""
    async with asyncio.timeout(LONG):
        with contextlib.suppress(ConnectionError):
            while more := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
                found += more


async def test_no_client_can_tell(tmp_path):
    """Every kind of request behind known ones, whole or in pieces, is answered as without them."""
    chance, found = random.Random(22), []
    cases = []
    for name, asked in REQUESTS.items():
        size = len(asked)
        some = sorted(chance.sample(range(1, size), min(3, size - 1)))
        cases += [(f"{name} {cuts}", asked, cuts) for cuts in ([], some, [size], [size - 1])]
        cases += [
            (f"{name} behind a known one", ASKED + asked, [len(ASKED)]),
            (f"{name} amid known ones", ASKED + asked + ASKED, [len(HEAD) + 3]),
        ]
    for way in (True, False):
        register(tmp_path / str(way), {"fake-detect": "detect"})
        async with testing.serving(tmp_path / str(way), engine="thread", short_way=way) as served:
            gate = asyncio.Semaphore(32)

            async def one(case, served=served, gate=gate):
                async with gate:
                    return await told(served, *case[1:])

            await one(cases[0])  # which alone may teach it
            found.append(await asyncio.gather(*map(one, cases)))
            hits = served.composed.heads.hits
            assert hits > 2 * len(cases) if way else not hits
    differing = {
        case[0]: (known, plain)
        for case, known, plain in zip(cases, *found, strict=True)
        if known != plain
    }
    assert not differing


@pytest.mark.parametrize("kind", [(), ("Accept: application/msgpack",)])
async def test_a_known_head_is_answered_header_by_header_as_ever(server, kind):
    """Names, order and values of the headers are those of the first answer."""
    asked = request("POST", INFER, *JPEG, *kind, body=PICTURE)
    found = []
    async with peer_of(server) as peer:
        for _ in range(4):
            peer.writer.write(asked)
            head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), LONG)
            size = int(re.search(rb"Content-Length: (\d+)", head)[1])
            found.append(VARYING.sub(b"...", head + await peer.reader.readexactly(size)))
        if DEFAULTS.get("short_way", True):
            assert peer.cache.hits >= 2
    assert len(set(found)) == 1


async def test_bodies_in_json_are_read_each(peer):
    """A known head of JSON says nothing of what its body asks, nor that it is any."""
    asked = functools.partial(request, "POST", "/v1/infer", "Content-Type: application/json")
    body = functools.partial(asking, image=picture(form="JPEG"))
    await peer.warm(asked(body=json.dumps(body("fake-detect")).encode()))
    for said, status, found in (
        (body("fake-detect", confidence=0.1), 200, b'"faint"'),
        (body("fake-classify"), 200, b'"classify"'),
        (body("fake-detect", confidence=9), 422, b"confidence"),
        (body("absent"), 404, b"absent"),
        ({"model": "fake-detect"}, 400, b"image"),
        ([], 422, b"object"),
        (body("fake-detect"), 200, b'"64x48"'),
    ):
        (got, _, answered), hits = await peer.hits(asked(body=json.dumps(said).encode()))
        assert (got, found in answered, hits) == (status, True, 1), answered
    (got, _, _), hits = await peer.hits(asked(body=b"{"))
    assert (got, hits) == (400, 1)


async def test_who_writes_into_a_pipe_lends_it_no_priority(peer, server):
    """What is done for a known request is in its connection's context, not in the writer's."""
    seen = []

    class Near(asyncio.Protocol):
        def data_received(self, data):
            seen.append(data)

    async def work():
        seen.append(BACKGROUND.get())

    conversation = server.composed.in_process.accept()
    loop = asyncio.get_running_loop()
    near, far = InProcessTransport(Near(), loop), InProcessTransport(conversation, loop)
    near.connect_to(far)
    context = contextvars.copy_context()
    context.run(BACKGROUND.set, True)  # noqa: FBT003
    hits = peer.cache.hits
    context.run(near.write, ASKED)
    await until(lambda: seen and b"bbox" in seen[-1], LONG)
    assert peer.cache.hits == hits + 1
    await context.run(conversation.spawn, work())
    assert seen[-1] is False
    near.close()


@pytest.mark.parametrize("cut", [len(ASKED), len(ASKED) - 5])
@pytest.mark.parametrize("odd", [False, True])
async def test_what_is_sent_at_once(peer, server, cut, odd):
    """The first bytes of a connection may come before aiohttp's task for it has begun."""
    found = bytearray()

    class Near(asyncio.Protocol):
        def data_received(self, data):
            found.extend(data)

    conversation = server.composed.in_process.accept()
    loop = asyncio.get_running_loop()
    near, far = InProcessTransport(Near(), loop), InProcessTransport(conversation, loop)
    near.connect_to(far)
    hits = peer.cache.hits
    sent = ASKED if not odd else ASKED.replace(b"\r\n", b"\r\nX-Odd: 1\r\n", 1)
    conversation.data_received(sent[:cut])
    assert peer.cache.hits == hits + (not odd)
    conversation.data_received(sent[cut:] + ASKED)
    await until(lambda: found.count(b"bbox") == 2, LONG)
    assert found.count(b"HTTP/1.1 200") == 2
    near.close()


async def test_a_body_in_many_pieces(peer):
    """A body may come byte by byte, and its head with any part of it."""
    for first in (0, 1, 100):
        cuts = [len(HEAD) + first, *range(len(HEAD) + 200, len(ASKED), 97)]
        pieces = [ASKED[a:b] for a, b in zip([0, *cuts], [*cuts, len(ASKED)], strict=True)]
        found, hits = await peer.hits(*pieces)
        assert (found[0], label(found), hits) == (200, "64x48", 1)


async def test_large_bodies_are_known_too(peer):
    """Of some megabytes, up to the longest: bytes as well as JSON, which is decoded elsewhere."""
    image = base64.b64encode(PICTURE).decode()
    small = json.dumps({"model": "fake-detect", "image": image, "more": ""}).encode()
    asked = functools.partial(
        request, "POST", INFER.partition("?")[0], "Content-Type: application/json"
    )
    await peer.warm(asked(body=small))
    for size in (1_200_000, MAX_BODY - len(small)):
        large = json.dumps({"model": "fake-detect", "image": image, "more": "m" * size}).encode()
        found, hits = await peer.hits(asked(body=large))
        assert (found[0], label(found), hits) == (200, "64x48", 1)
        padded = request("POST", INFER, *JPEG, body=PICTURE + bytes(size))
        found, hits = await peer.hits(padded)
        assert (found[0], label(found), hits) == (200, "64x48", 1)
    longer = request("POST", INFER, *JPEG, body=PICTURE + bytes(MAX_BODY))
    found, hits = await peer.hits(longer)
    assert (found[0], label(found), hits) == (200, "64x48", 0)
    assert peer.budget.taken == 0


async def test_a_head_in_pieces_is_not_known(peer):
    """A connection whose head came in pieces is aiohttp's from then on, and goes on."""
    found, hits = await peer.hits(ASKED[:20], ASKED[20:])
    assert (found[0], hits) == (200, 0)
    found, hits = await peer.hits(ASKED)
    assert (found[0], hits) == (200, 0)


async def test_pictures_of_other_sizes_are_known_by_the_same_head(peer):
    """The digits of the length are no part of what is known."""
    for width in (8, 300, 1_000):
        other = picture(width, 40, form="JPEG")
        found, hits = await peer.hits(request("POST", INFER, *JPEG, body=other))
        assert (label(found), hits) == (f"{width}x40", 1)


@pytest.mark.parametrize("length", ["0", "01", "+9", " 9", "9 ", "0x9", "1_0", "٣", ""])
async def test_lengths_that_are_none(peer, server, length):
    """What is not a plain number is left to aiohttp, whose answer it is on a new connection."""
    head = re.sub(rb"(?<=Content-Length: )\d+", length.encode(), HEAD)
    peer.writer.write(head + LAST)
    async with peer_of(server) as other:
        other.writer.write(head + LAST)
        ours, theirs = await peer.rest(), await other.rest()
    assert VARYING.sub(b"", ours) == VARYING.sub(b"", theirs)


async def test_requests_at_once_are_answered_in_order(peer):
    """Requests that come in one piece, and behind one that is answered, get their own answers."""
    sizes = [(8 + 2 * number, 40) for number in range(12)]
    asked = [
        request("POST", INFER, *JPEG, body=picture(*size, (1, 1, 2, 2), "JPEG")) for size in sizes
    ]
    pieces = [asked[0], b"".join(asked[1:3]), *asked[3:8], b"".join(asked[8:])]
    for piece in pieces:
        peer.writer.write(piece)
        await asyncio.sleep(0.001)
    assert [label(await peer.read()) for _ in sizes] == [f"{w}x{h}" for w, h in sizes]


async def test_much_that_comes_early_is_not_kept(peer):
    """Of what comes behind a request that is being answered little is read before it is."""
    await peer.warm(SLOWLY)
    peer.writer.write(SLOWLY)
    await until(lambda: peer.lifecycle.active == 1, LONG)
    peer.writer.write(ASKED * 100)
    assert (await peer.read())[0] == 200
    for _ in range(100):
        assert (await peer.read())[0] == 200


async def test_rubbish_behind_a_body_is_refused(peer):
    """What follows a body is the next request, and 400 where it is none."""
    assert (await peer.ask(ASKED[:-5], ASKED[-5:] + b"\x16\x03\x01 rubbish\r\n\r\n"))[0] == 200
    status, headers, body = await peer.read()
    assert (status, "connection" in headers) == (400, False)  # as to HTTP/1.0
    detail_of(body)
    assert await peer.rest() == b""


@pytest.mark.parametrize(
    "line",
    ["Transfer-Encoding: chunked", "Content-Length: 7", "Expect: 100-continue", "Upgrade: h2c"],
)
async def test_a_line_more_is_another_head(peer, line):
    """A header that changes where a message ends is not taken for the head without it."""
    _, hits = await peer.hits(retitled(ASKED, b"\r\n\r\n", f"\r\n{line}\r\n\r\n".encode()))
    assert hits == 0


async def test_other_requests_between(peer):
    """GET and HEAD between two known requests are answered, and the next one is known."""
    for method in ("GET", "HEAD"):
        peer.writer.write(request(method, "/v1/health"))
        head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), LONG)
        assert head.startswith(b"HTTP/1.1 200 ")
        if method == "GET":
            await peer.reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
        found, hits = await peer.hits(ASKED)
        assert (found[0], hits) == (200, 1)


async def test_the_last_request_of_a_connection(peer):
    """``Connection: close`` behind known requests closes the connection."""
    (status, headers, _), hits = await peer.hits(
        request("POST", INFER, *JPEG, "Connection: close", body=PICTURE)
    )
    assert (status, headers["connection"], hits) == (200, "close", 0)
    assert await peer.rest() == b""
