"""Requests whose head is known: a client cannot tell them from others, whatever it does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import dataclasses
import functools
import itertools
import json
import random
import re
import socket

import pytest

from api_answers import answer, asking, detail_of, until
from conftest import picture, register
from mataserver import MataError, testing
from mataserver.app import running
from mataserver.http import caching as heads_known
from mataserver.http.backlog import Strangers
from mataserver.http.budget import BudgetShare
from mataserver.http.caching import CachingConversation
from mataserver.http.entrance import Site
from mataserver.http.heads import LARGEST, MOST
from mataserver.http.hits import Hit
from mataserver.http.pipes import Pipe
from mataserver.serving.background import BACKGROUND
from mataserver.testing.serving import KEY, compose
from odd_requests import INFER, JPEG, LAST, PICTURE, REQUESTS, VARYING, request
from service_plugins import plugin

__all__ = ["plugin"]

LONG = 20.0
"""Seconds that a test waits at most for what is to come."""
ASKED = request("POST", INFER, *JPEG, body=PICTURE)
HEAD = ASKED[: -len(PICTURE)]
SLOWLY = request("POST", f"{INFER}&seconds=0.2", *JPEG, body=PICTURE)
NONE = ASKED.replace(PICTURE, b"x" * len(PICTURE))
"""The same head, and no picture behind it."""


class Peer:
    """One connection to a server, of which bytes are written and answers read."""

    def __init__(self, served, reader, writer):
        self.cache = served.composed.heads
        self.lifecycle = served.composed.lifecycle
        self.budget = served.composed.budget
        self.reader = reader
        self.writer = writer

    async def ask(self, *pieces):
        """Write pieces one after the other; return the answer."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.002)
        return await self.read()

    async def read(self):
        """Return the next answer."""
        return await asyncio.wait_for(answer(self.reader), LONG)

    async def rest(self):
        """Return all that comes until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), LONG)

    async def hits(self, *pieces):
        """Ask; return the answer, and how many requests were answered by a known head."""
        before = self.cache.hits
        found = await self.ask(*pieces)
        return found, self.cache.hits - before

    async def warm(self, asked=ASKED):
        """Have the server know a head: it is asked until it does."""
        for _ in range(5):
            (status, _, _), hits = await self.hits(asked)
            assert status == 200
            if hits:
                return self
        pytest.fail("the head of a plain request is not known after five of them")


@contextlib.asynccontextmanager
async def peer_of(served):
    """Give a connection to a server."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Peer(served, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def peer(server):
    """A connection to the server, which knows ``ASKED``'s head."""
    async with peer_of(server) as connected:
        yield await connected.warm()


@contextlib.asynccontextmanager
async def warm_peer(data_dir, **settings):
    """Give a connection to a server with settings of its own, which knows ``ASKED``'s head."""
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        peer_of(served) as connected,
    ):
        yield served, await connected.warm()


def label(found):
    """Return what the fake model says of a picture: its size."""
    return re.search(rb'"label":"(\d+x\d+)"', found[2])[1].decode()


def retitled(asked, old, new):
    """Return a request with something of its head changed."""
    assert old in asked
    return asked.replace(old, new, 1)


# the same bytes


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

    conversation = server.composed.doorway.accept()
    loop = asyncio.get_running_loop()
    near, far = Pipe(Near(), loop), Pipe(conversation, loop)
    near.join(far)
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

    conversation = server.composed.doorway.accept()
    loop = asyncio.get_running_loop()
    near, far = Pipe(Near(), loop), Pipe(conversation, loop)
    near.join(far)
    hits = peer.cache.hits
    sent = ASKED if not odd else ASKED.replace(b"\r\n", b"\r\nX-Odd: 1\r\n", 1)
    conversation.data_received(sent[:cut])
    assert peer.cache.hits == hits + (not odd)
    conversation.data_received(sent[cut:] + ASKED)
    await until(lambda: found.count(b"bbox") == 2, LONG)
    assert found.count(b"HTTP/1.1 200") == 2
    near.close()


# where a message ends


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
    for size in (1_200_000, LARGEST - len(small)):
        large = json.dumps({"model": "fake-detect", "image": image, "more": "m" * size}).encode()
        found, hits = await peer.hits(asked(body=large))
        assert (found[0], label(found), hits) == (200, "64x48", 1)
        padded = request("POST", INFER, *JPEG, body=PICTURE + bytes(size))
        found, hits = await peer.hits(padded)
        assert (found[0], label(found), hits) == (200, "64x48", 1)
    longer = request("POST", INFER, *JPEG, body=PICTURE + bytes(LARGEST))
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


# who asks, and what


async def test_a_wrong_key_behind_a_right_one(peer):
    """The same connection shows another key: it is judged by itself."""
    wrong = retitled(ASKED, KEY.encode(), b"w" * len(KEY))
    assert (await peer.ask(wrong))[0] == 403
    found, hits = await peer.hits(ASKED)
    assert (found[0], hits) == (200, 1)
    assert (await peer.ask(retitled(ASKED, f"X-API-Key: {KEY}\r\n".encode(), b"")))[0] == 401


async def test_a_key_without_the_scope(data_dir):
    """A head that was refused is never known."""
    keys = [{"key": "reader-key", "scopes": ["models:read"]}, KEY]
    async with warm_peer(data_dir, api_keys=keys) as (_, peer):
        asked = retitled(ASKED, KEY.encode(), b"reader-key")
        for _ in range(3):
            (status, _, _), hits = await peer.hits(asked)
            assert (status, hits) == (403, 0)


ACCOUNTS = """
from mataserver import Principal

class Service(Base):
    asked = 0

    async def authenticate(self, credentials):
        self.asked += 1
        if credentials.secret == "theirs":
            return Principal("lab:1", "somebody", "lab", frozenset({"infer"}))
        return None
"""


async def test_a_service_judges_each_request(data_dir, plugin):
    """A service that is to be awaited counts and revokes as it likes: its heads are not known."""
    points = (testing.FAKE, plugin(ACCOUNTS))
    async with warm_peer(data_dir, entry_points=points) as (served, peer):
        asked = retitled(ASKED, KEY.encode(), b"theirs")
        for _ in range(4):
            (status, _, _), hits = await peer.hits(asked)
            assert (status, hits) == (200, 0)
        assert served.service("lab").asked == 4


OWNERS = """
from mataserver import MataError, Principal

THEIRS = Principal("lab:1", "somebody", "lab", frozenset({"infer"}))

class Service(Base):
    asked = awaited = 0
    owner, refusal = THEIRS, None

    def owner_of(self, secret):
        if secret != "theirs":
            return None
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return self.owner

    async def authenticate(self, credentials):
        self.awaited += 1
        return self.owner_of(credentials.secret)
"""
THEIRS = retitled(ASKED, KEY.encode(), b"theirs")


@contextlib.asynccontextmanager
async def owned_peer(data_dir, plugin):
    """Give the service that owns a key, and a connection that knows the head with it."""
    points = (testing.FAKE, plugin(OWNERS))
    async with warm_peer(data_dir, entry_points=points) as (served, peer):
        service = served.service("lab")
        await peer.warm(THEIRS)
        service.asked = service.awaited = 0
        yield service, peer


async def test_a_service_that_needs_the_secret_alone_is_asked_once_a_request(data_dir, plugin):
    """It counts each, and nothing of it is awaited."""
    async with owned_peer(data_dir, plugin) as (service, peer):
        for count in range(1, 4):
            (status, _, _), hits = await peer.hits(THEIRS)
            assert (status, hits, service.asked, service.awaited) == (200, 1, count, 0)
        found, hits = await peer.hits(retitled(THEIRS, b"theirs", b"anyone"))
        assert (found[0], hits) == (403, 0)


async def test_a_request_without_room_is_asked_for_once(data_dir, plugin):
    """One for whose body there is no room goes the long way, and counts no second time."""
    points = (testing.FAKE, plugin(OWNERS))
    settings = {"entry_points": points, "max_inflight_mb": 1, "max_body_mb": 1}
    async with warm_peer(data_dir, **settings) as (served, peer):
        await peer.warm(THEIRS)
        service, held = served.service("lab"), served.composed.budget
        service.asked = 0
        share = held.limit - 10
        held.taken += share
        found, hits = await peer.hits(THEIRS)
        held.taken -= share
        assert (found[0], hits, service.asked) == (503, 0, 1)


async def test_a_large_request_without_room_is_asked_for_once(data_dir, plugin):
    """There may be room for what is here of it, and none for the rest."""
    points = (testing.FAKE, plugin(OWNERS))
    settings = {"entry_points": points, "max_inflight_mb": 1, "max_body_mb": 1}
    async with warm_peer(data_dir, **settings) as (served, peer):
        await peer.warm(THEIRS)
        service, held = served.service("lab"), served.composed.budget
        share = held.limit - 150_000
        large = re.sub(rb"(?<=Content-Length: )\d+", b"900000", THEIRS[: -len(PICTURE)])
        large += bytes(900_000)
        service.asked = 0
        held.taken += share
        found, hits = await peer.hits(large[:100_000], large[100_000:])
        held.taken -= share
        assert (found[0], hits, service.asked) == (503, 0, 1)


@pytest.mark.parametrize("less", [{"scopes": frozenset()}, {"background": True}])
async def test_who_may_less_is_asked_for_twice_at_most_once(data_dir, plugin, less):
    """A head whose key does not do any more is forgotten, as long as it does not."""
    async with owned_peer(data_dir, plugin) as (service, peer):
        service.owner = dataclasses.replace(service.owner, **less)
        await peer.ask(THEIRS)
        service.asked = 0
        for count in range(1, 4):
            assert (await peer.hits(THEIRS))[1] == 0
            assert service.asked == count


async def test_early_bytes_count_as_in_flight(peer):
    """What a client sends behind a request that is answered lies in memory, too."""
    await peer.warm(SLOWLY)
    peer.writer.write(SLOWLY)
    await until(lambda: peer.lifecycle.active == 1, LONG)
    peer.writer.write(ASKED * 20)
    await until(lambda: peer.budget.taken >= len(PICTURE) + 20 * len(ASKED), LONG)
    for _ in range(21):
        assert (await peer.read())[0] == 200
    assert peer.budget.taken == 0


async def test_what_nobody_foresaw_is_answered(data_dir, monkeypatch):
    """A fault in what makes the answer of a worker's words is a 500, and the next one is served."""
    async with warm_peer(data_dir) as (_, peer):
        await peer.warm(ASKED)

        def fails(*_):
            raise ValueError("of no kind that is known")

        with monkeypatch.context() as patched:
            patched.setattr("mataserver.serving.handle._encoded", fails)
            (status, _, body), hits = await peer.hits(ASKED)
            assert (status, hits) == (500, 1)
            assert b"of no kind" not in body
        assert (await peer.hits(ASKED))[0][0] == 200


async def test_a_service_revokes_at_once(data_dir, plugin):
    """Whom it knows no more, refuses, lets do less or lets wait is not answered by a known head."""
    async with owned_peer(data_dir, plugin) as (service, peer):
        theirs, refused = service.owner, MataError("too often", status=429)
        less, later = ({"scopes": frozenset()}, {"background": True})
        for owner, refusal, status in (
            (None, None, 403),
            (theirs, refused, 429),
            (dataclasses.replace(theirs, **less), None, 403),
            (dataclasses.replace(theirs, **later), None, 200),
        ):
            service.owner, service.refusal = owner, refusal
            assert await told_by(peer) == (status, 0)
            service.owner, service.refusal = theirs, None
            assert await told_by(peer) == (200, 0)  # it was forgotten
            assert await told_by(peer) == (200, 1)


async def told_by(peer):
    """Return the status that the service's client gets, and how many heads were known."""
    found, hits = await peer.hits(THEIRS)
    return found[0], hits


async def test_a_key_beside_another_is_not_known(data_dir, plugin):
    """What a second header shows may decide as well."""
    async with owned_peer(data_dir, plugin) as (_, peer):
        both = retitled(THEIRS, b"\r\n", b"\r\nX-API-Key: other\r\n")
        for _ in range(4):
            assert (await peer.hits(both))[1] == 0


async def test_a_service_before_it_that_has_to_be_awaited(data_dir, plugin):
    """It may have something to say of the secret, so that the next one does not decide alone."""
    points = (testing.FAKE, plugin(ACCOUNTS, "early"), plugin(OWNERS))
    async with warm_peer(data_dir, entry_points=points) as (_, peer):
        for _ in range(4):
            found, hits = await peer.hits(THEIRS)
            assert (found[0], hits) == (200, 0)


CLAIMS = """
class Service(Base):
    ours = False

    def claims(self, request):
        return self.claimed if self.ours else None

    async def claimed(self, request):
        await request.read()
        return web.Response(text="claimed")
"""


async def test_what_a_service_may_claim_is_not_known(data_dir, plugin):
    """A service that takes requests before any route is asked about each."""
    points = (testing.FAKE, plugin(CLAIMS))
    async with (
        testing.serving(data_dir, engine="thread", entry_points=points) as served,
        peer_of(served) as peer,
    ):
        for _ in range(3):
            assert (await peer.ask(ASKED))[0] == 200
        served.service("lab").ours = True
        assert (await peer.ask(ASKED))[2] == b"claimed"


async def test_an_open_server_knows_heads_and_names(data_dir):
    """Without keys heads are known too; a Host that is no name of the server stays refused."""
    async with warm_peer(data_dir, auth_mode="none", api_keys=[], allowed_hosts=["here"]) as (
        _,
        peer,
    ):
        for _ in range(2):
            (status, _, _), hits = await peer.hits(retitled(ASKED, b"Host: here", b"Host: evil"))
            assert (status, hits) == (403, 0)


async def test_queries_are_told_apart(peer):
    """Another query is another head, and asks what it says."""
    for confidence, count in ((0.1, 2), (0.5, 1), (0.1, 2), (0.95, 0)):
        asked = request("POST", f"{INFER}&confidence={confidence}", *JPEG, body=PICTURE)
        for _ in range(2):
            assert (await peer.ask(asked))[2].count(b'"label"') == count


async def test_heads_that_are_known_are_bounded(peer):
    """However many heads come, few are kept, and those that come again are known."""
    for number in range(MOST + 20):
        asked = request("POST", f"{INFER}&confidence={number / 1000}", *JPEG, body=PICTURE)
        peer.writer.write(asked)
        assert (await peer.read())[0] == 200
    assert len(peer.cache) == MOST
    assert (await peer.hits(asked))[1] == 1
    (status, _, _), hits = await peer.hits(ASKED)
    assert (status, hits) == (200, 0)


async def test_nobody_pushes_out_the_heads_of_others(data_dir):
    """Who sends very many different heads is known by few of them; others stay known."""
    async with warm_peer(data_dir, api_keys=[KEY, "other-key"]) as (_, peer):
        for number in range(MOST + 20):
            asked = request("POST", f"{INFER}&confidence={number / 1000}", *JPEG, body=PICTURE)
            peer.writer.write(retitled(asked, KEY.encode(), b"other-key"))
            assert (await peer.read())[0] == 200
        assert len(peer.cache) == MOST
        assert (await peer.hits(ASKED))[1] == 1
        assert (await peer.hits(retitled(asked, KEY.encode(), b"other-key")))[1] == 1


async def test_a_long_head_is_not_known(peer):
    """A head of some size is aiohttp's business, and so is its connection then."""
    asked = request("POST", INFER, *JPEG, f"X-Long: {'x' * 4_000}", body=PICTURE)
    for _ in range(3):
        (status, _, _), hits = await peer.hits(asked)
        assert (status, hits) == (200, 0)


# models that come and go


async def test_a_model_that_is_unloaded_between(server, http, peer):
    """A known request loads the model again."""
    async with http.post("/v1/models/unload", json={"model": "fake-detect"}) as response:
        assert response.status == 200
    found, hits = await peer.hits(ASKED)
    assert (found[0], hits) == (200, 1)


async def test_a_model_that_is_removed_and_comes_back_for_another_task(server, http, peer):
    """What is not registered is 404 though the head was known; another task answers as such."""
    async with http.delete("/v1/models/fake-detect") as response:
        assert response.status == 200
    assert (await peer.ask(ASKED))[0] == 404
    register(server.composed.settings.data_path, {"fake-detect": "detect", "fake-ocr": "ocr"})

    async def back():
        return (await peer.ask(ASKED))[0] == 200

    await until(back, LONG)
    assert (await peer.hits(ASKED))[1] == 1


# what goes wrong


async def test_a_known_head_with_no_picture(peer):
    """What the model's worker refuses is told as ever, and the connection goes on."""
    found, hits = await peer.hits(NONE)
    detail_of(found[2])
    assert (found[0], hits) == (400, 1)
    assert found[1]["x-request-id"]
    assert "total;dur=" in found[1]["server-timing"]
    found, hits = await peer.hits(ASKED)
    assert (found[0], hits) == (200, 1)


FORMS = """
class Service(Base):
    def error_forms(self):
        return {"/v1/infer": self.form}

    def form(self, status, detail):
        raise RuntimeError("a bug of the lab")
"""


async def test_a_form_of_errors_that_fails(data_dir, plugin, caplog):
    """What fails behind the handler is 500 and ends the connection, and is no riddle."""
    async with warm_peer(data_dir, entry_points=(testing.FAKE, plugin(FORMS))) as (served, peer):
        (status, headers, body), hits = await peer.hits(NONE)
        assert (status, headers["connection"], hits) == (500, "close", 1)
        assert detail_of(body) == "Internal server error"
        assert await peer.rest() == b""
        async with peer_of(served) as other:
            assert (await other.ask(ASKED))[0] == 200
        assert peer.lifecycle.active == 0
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == [
        "a request failed outside its handler"
    ]


def test_only_releases_that_were_tried_have_their_heads_known():
    """The release that the tests run with is tried; with another one nobody's head is known."""
    assert heads_known.known()
    assert not heads_known.known("3.14.0")
    assert not heads_known.known("3.14.5.post1")


async def test_a_model_that_fails(server, peer, caplog):
    """A failure of the model is 500, one line in the log, and no end of the connection."""
    asked = request("POST", f"{INFER}&behave=raise", *JPEG, body=PICTURE)
    for _ in range(2):
        assert (await peer.ask(asked))[0] == 500
    assert (await peer.hits(ASKED))[0][0] == 200


async def test_a_slow_body_is_refused(data_dir):
    """A body that does not come in time is 408, and the connection is closed."""
    async with warm_peer(data_dir, body_timeout=0.2) as (_, peer):
        before = peer.cache.hits
        status, headers, body = await peer.ask(ASKED[: len(HEAD) + 100])
        assert (status, headers["connection"]) == (408, "close")
        assert detail_of(body) == "The body did not arrive in time"
        assert peer.cache.hits == before + 1
        assert peer.budget.taken == 0
        peer.writer.write(ASKED[len(HEAD) + 100 :])
        assert await peer.rest() == b""


async def test_a_body_in_time_for_a_slow_model(data_dir):
    """The time for a body is over with the body: whoever waits for the model gets its answer."""
    async with (
        warm_peer(data_dir, body_timeout=1.0) as (served, peer),
        peer_of(served) as other,
    ):
        other.writer.write(request("POST", f"{INFER}&seconds=2.5", *JPEG, body=PICTURE))
        await until(lambda: served.composed.lifecycle.active == 1, LONG)
        await asyncio.sleep(0.1)  # it has the model
        (status, _, _), hits = await peer.hits(ASKED[:-20], ASKED[-20:])
        assert (status, hits) == (200, 1)
        assert (await other.read())[0] == 200
        assert (await peer.ask(ASKED))[0] == 200


async def test_a_body_over_the_limit(data_dir):
    """A known head that announces too much is 413 at once."""
    async with warm_peer(data_dir, max_body_mb=0.01) as (_, peer):
        head = re.sub(rb"(?<=Content-Length: )\d+", b"10001", HEAD)
        (status, headers, body), hits = await peer.hits(head)
        assert (status, headers["connection"], hits) == (413, "close", 0)
        assert detail_of(body) == "The body is over the limit of 10000 bytes"


async def test_a_body_without_room(data_dir):
    """Where too many bytes are in flight a known request is 503 with Retry-After, also amid it."""
    async with warm_peer(data_dir, max_inflight_mb=1, max_body_mb=1) as (served, peer):
        large = request("POST", INFER, *JPEG, body=bytes(900_000))
        share = served.composed.budget.limit - 150_000
        held = served.composed.budget
        for pieces in ((large,), (large[:100_000], large[100_000:])):
            held.taken += share
            status, headers, body = await peer.ask(*pieces)
            held.taken -= share
            assert (status, headers["retry-after"]) == (503, "1")
            assert detail_of(body) == "Too many request bytes are in flight"
            assert held.taken == 0
            assert (await peer.ask(ASKED))[0] == 200


async def test_a_full_queue(data_dir):
    """Known requests that find the queue full are 503 and say when to come back."""
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(
            testing.serving(data_dir, engine="thread", queue_limit=1)
        )
        peers = [await stack.enter_async_context(peer_of(served)) for _ in range(8)]
        await peers[0].warm(SLOWLY)
        for each in peers:
            await each.ask(request("GET", "/v1/health"))
        before = peers[0].cache.hits
        found = await asyncio.gather(*(each.ask(SLOWLY) for each in peers))
        assert peers[0].cache.hits == before + len(peers)
    assert {status for status, _, _ in found} == {200, 503}
    assert all(int(headers["retry-after"]) >= 1 for status, headers, _ in found if status == 503)


async def test_who_waits_for_a_worker_that_is_lost_is_served_by_the_next(data_dir):
    """What the lost worker had is a failure; what it was not given yet is answered by another."""
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(testing.serving(data_dir, engine="thread"))
        peers = [await stack.enter_async_context(peer_of(served)) for _ in range(12)]
        await peers[0].warm(SLOWLY)
        before, pool = peers[0].cache.hits, served.composed.pool
        asked = [asyncio.create_task(each.ask(SLOWLY)) for each in peers]
        await until(lambda: peers[0].cache.hits == before + len(peers), LONG)
        with pool.lease_worker(served.composed.catalog.plan("fake-detect")) as worker:
            worker.give_up("a test")
        found = [status for status, _, _ in await asyncio.gather(*asked)]
        assert set(found) == {200, 500}
        assert (await peers[0].ask(ASKED))[0] == 200
        assert peers[0].lifecycle.active == 0
        assert peers[0].budget.taken == 0


async def test_who_waits_for_a_place_and_leaves_is_not_worked_for(data_dir):
    """A known request whose client leaves as it waits leaves nothing that is waited for."""
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(testing.serving(data_dir, engine="thread"))
        peers = [await stack.enter_async_context(peer_of(served)) for _ in range(12)]
        lifecycle = peers[0].lifecycle
        await peers[0].warm(SLOWLY)
        for each in peers:
            each.writer.write(SLOWLY)
        await until(lambda: lifecycle.active == len(peers), LONG)
        for each in peers[1:]:
            each.writer.transport.abort()
        await until(lambda: lifecycle.active == 1, LONG)
        assert (await peers[0].read())[0] == 200
        await until(lambda: lifecycle.active == 0, LONG)
        assert peers[0].budget.taken == 0
        assert await asyncio.wait_for(served.composed.pool.unload("fake-detect"), LONG)


# clients that leave, servers that end


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
        await until(lambda: peer.lifecycle.draining, LONG)
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
    runner, made = running.runner_of(composed), []

    def converse(server):
        share = functools.partial(BudgetShare, composed.budget)
        options = {"loop": asyncio.get_running_loop(), "patience": LONG, **running.CONNECTIONS}
        options["strangers"] = Strangers(1e6)
        made.append(CachingConversation(server, share, cache=composed.heads, **options))
        return made[-1]

    await runner.setup()
    try:
        await Site(runner, "127.0.0.1", 0, 0, converse).start()
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


# a head is its own request's


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
    hit = object.__new__(Hit)
    hit._pieces, hit._end = [b"head"], 4
    sent = [bytes((n % 256,)) for n in range(200_000)] + [b"y" * 10_000, b"z"]
    for each in sent:
        hit._keep(each)
    assert len(hit._pieces) < 10
    assert hit._body() == b"".join(sent)
