"""Requests whose head is known: models that come and go, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re

from api_answers import detail_of, until
from conftest import register
from known_heads import ASKED, HEAD, LONG, NONE, SLOWLY, peer, peer_of, warm_peer
from mataserver import testing
from mataserver.http import head_connection as heads_known
from odd_requests import INFER, JPEG, PICTURE, request
from service_plugins import plugin

__all__ = ["peer", "plugin"]


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
    """The error keeps its status, in the server's own form, and the connection stays open."""
    async with warm_peer(data_dir, entry_points=(testing.FAKE, plugin(FORMS))) as (_served, peer):
        (status, _headers, body), hits = await peer.hits(NONE)
        assert (status, hits) == (400, 1)
        assert "image" in detail_of(body)
        found, hits = await peer.hits(ASKED)
        assert (found[0], hits) == (200, 1)
        assert peer.lifecycle.active == 0
    (failure,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
    assert failure.startswith("the form of errors service_under_test_")
    assert failure.endswith(".Service.form failed: 400 is told in the server's own")


def test_only_releases_that_were_tried_have_their_heads_known():
    """The release that the tests run with is tried; with another one nobody's head is known."""
    assert heads_known.is_supported()
    assert not heads_known.is_supported("3.14.0")
    assert not heads_known.is_supported("3.14.5.post1")


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
            thread = worker._thread  # on a busy machine it takes a while to begin
            await until(lambda: thread._current in thread._pending, LONG)
            worker._on_hang()
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
