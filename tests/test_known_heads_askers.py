"""Requests whose head is known: who asks, and for what, is judged for each."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import pytest

from api_answers import until
from known_heads import ASKED, LONG, SLOWLY, peer, peer_of, retitled, warm_peer
from mataserver import MataError, testing
from mataserver.http.head_cache import MAX_HEADS
from mataserver.http.revocation import MAX_REMEMBERED
from mataserver.testing.serving import KEY
from odd_requests import INFER, JPEG, PICTURE, request
from service_plugins import plugin

__all__ = ["peer", "plugin"]


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


@pytest.mark.parametrize("known", [True, False])
async def test_who_is_revoked_while_the_body_arrives(data_dir, plugin, known):
    """Both ways say the same: of what has not all come nothing is inferred."""
    async with owned_peer(data_dir, plugin) as (service, peer):
        asked = THEIRS if known else retitled(THEIRS, b"\r\n", b"\r\nX-Request-Id: long-way\r\n")
        for late in (PICTURE[-9:], PICTURE[20:]):
            hits = peer.cache.hits
            peer.writer.write(asked.removesuffix(late))
            await until(lambda: peer.lifecycle.active)
            assert peer.cache.hits - hits == known
            service.ctx.sign_out("somebody else")
            service.ctx.sign_out(service.owner.id)
            peer.writer.write(late)
            status, _, said = await peer.read()
            assert (status, b"counts no more" in said) == (401, True)
            assert peer.budget.taken == 0
        assert (await peer.ask(asked))[0] == 200


@pytest.mark.parametrize("known", [True, False])
async def test_others_are_revoked_while_the_body_arrives(data_dir, plugin, known):
    """However many others end meanwhile, both ways answer who did not."""
    async with owned_peer(data_dir, plugin) as (service, peer):
        asked = THEIRS if known else retitled(THEIRS, b"\r\n", b"\r\nX-Request-Id: long-way\r\n")
        hits = peer.cache.hits
        peer.writer.write(asked.removesuffix(PICTURE[20:]))
        await until(lambda: peer.lifecycle.active)
        assert peer.cache.hits - hits == known
        for number in range(MAX_REMEMBERED + 1):
            service.ctx.sign_out(f"somebody {number}")
        peer.writer.write(PICTURE[20:])
        assert (await peer.read())[0] == 200


@pytest.mark.parametrize("known", [True, False])
async def test_who_is_revoked_while_it_is_inferred(data_dir, plugin, known):
    """Both ways say the same: what has all come is answered."""
    slowly = retitled(SLOWLY, KEY.encode(), b"theirs")
    async with owned_peer(data_dir, plugin) as (service, peer):
        await peer.warm(slowly)
        asked = slowly if known else retitled(slowly, b"\r\n", b"\r\nX-Request-Id: long-way\r\n")
        for pieces in ((asked,), (asked[:-9], asked[-9:])):
            hits = peer.cache.hits
            for each in pieces:
                peer.writer.write(each)
                await until(lambda: peer.lifecycle.active)
            await until(lambda: peer.budget.taken >= len(PICTURE))
            assert peer.cache.hits - hits == known
            service.ctx.sign_out(service.owner.id)
            assert (await peer.read())[0] == 200


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
    for number in range(MAX_HEADS + 20):
        asked = request("POST", f"{INFER}&confidence={number / 1000}", *JPEG, body=PICTURE)
        peer.writer.write(asked)
        assert (await peer.read())[0] == 200
    assert MAX_HEADS / 2 < len(peer.cache) <= MAX_HEADS
    assert (await peer.hits(asked))[1] == 1
    (status, _, _), hits = await peer.hits(ASKED)
    assert (status, hits) == (200, 0)


async def test_nobody_pushes_out_the_heads_of_others(data_dir):
    """Who sends very many different heads is known by few of them; others stay known."""
    async with warm_peer(data_dir, api_keys=[KEY, "other-key"]) as (_, peer):
        for number in range(MAX_HEADS + 20):
            asked = request("POST", f"{INFER}&confidence={number / 1000}", *JPEG, body=PICTURE)
            peer.writer.write(retitled(asked, KEY.encode(), b"other-key"))
            assert (await peer.read())[0] == 200
        assert MAX_HEADS / 2 < len(peer.cache) <= MAX_HEADS
        assert (await peer.hits(ASKED))[1] == 1
        assert (await peer.hits(retitled(asked, KEY.encode(), b"other-key")))[1] == 1


async def test_a_long_head_is_not_known(peer):
    """A head of some size is aiohttp's business, and so is its connection then."""
    asked = request("POST", INFER, *JPEG, f"X-Long: {'x' * 4_000}", body=PICTURE)
    for _ in range(3):
        (status, _, _), hits = await peer.hits(asked)
        assert (status, hits) == (200, 0)
