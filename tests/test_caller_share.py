"""One caller with a key has a share of what all have: sessions, and bytes in flight."""

from __future__ import annotations

import asyncio
import contextlib
import io

import aiohttp
import pytest

from api_answers import answer, connection, until
from conftest import picture
from mataserver import testing
from mataserver.errors import Unavailable
from mataserver.http.budget import Budget, BudgetShare
from mataserver.principals import ANONYMOUS

KEYS = ["first-key", "other-key"]
PATH = "/v1/sessions"
MEGABYTE = 1_000_000


@contextlib.asynccontextmanager
async def shared(data_dir, **settings):
    """Give a server of which one caller has half, and a client that shows any key."""
    given = {"engine": "thread", "api_keys": KEYS, "caller_share": 0.5} | settings
    async with (
        testing.serving(data_dir, **given) as served,
        aiohttp.ClientSession(served.url) as http,
    ):
        yield served, http


def of(key):
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


async def asked_for(http, key):
    """Ask for a session; return the status, and what is told."""
    async with http.post(PATH, json={"model": "fake-detect"}, headers=of(key)) as response:
        return response.status, await response.json()


async def test_sessions(data_dir):
    """One that asks for all at a time gets its share, and the other one still gets the same."""
    async with shared(data_dir, max_sessions=4) as (_, http):
        for key in KEYS:
            found = await asyncio.gather(*(asked_for(http, key) for _ in range(4)))
            assert sorted(status for status, _ in found) == [201, 201, 503, 503]
        assert (await asked_for(http, KEYS[0]))[0] == 503


async def test_a_deleted_session_makes_room(data_dir):
    """Of the same caller, who is told why it had none."""
    async with shared(data_dir, max_sessions=3) as (_, http):
        _, made = await asked_for(http, KEYS[0])
        status, told = await asked_for(http, KEYS[0])
        assert (status, told["detail"]) == (
            503,
            "Maximum concurrent sessions of one caller reached (1)",
        )
        await http.delete(f"{PATH}/{made['session_id']}", headers=of(KEYS[0]))
        assert (await asked_for(http, KEYS[0]))[0] == 201


async def test_callers_without_keys_have_all(data_dir):
    """They are nobody in particular."""
    async with shared(data_dir, max_sessions=2, auth_mode="none", api_keys=[]) as (_, http):
        assert [(await asked_for(http, ""))[0] for _ in range(3)] == [201, 201, 503]


@contextlib.asynccontextmanager
async def arriving(served, key, size):
    """Send ``size`` bytes of a body that is one byte longer; give its connection."""
    before = served.composed.budget.taken
    async with connection(served) as (reader, writer):
        head = f"POST /v1/infer?model=fake-detect HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n"
        writer.write(
            f"{head}Content-Type: image/png\r\nContent-Length: {size + 1}\r\n\r\n".encode()
        )
        writer.write(bytes(size))
        await until(lambda: served.composed.budget.taken == before + size)
        yield reader, writer


async def infer(http, key, image):
    """Infer on an image; return the status."""
    query = {"model": "fake-detect"}
    head = of(key) | {"Content-Type": "image/jpeg"}
    async with http.post(
        "/v1/infer", params=query, data=io.BytesIO(image), headers=head
    ) as response:
        return response.status


async def test_bodies_in_flight(data_dir):
    """One whose bodies arrive slowly holds its half alone, also on a head that is known."""
    limits = {"max_inflight_mb": 8, "max_body_mb": 8}
    large = picture(form="JPEG") + bytes(MEGABYTE * 3 // 2)
    async with shared(data_dir, **limits) as (served, http), connection(served) as (reader, writer):
        for key in KEYS * 3:
            assert await infer(http, key, large) == 200
        head = f"POST /v1/infer?model=fake-detect HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEYS[0]}\r\n"
        writer.write(
            f"{head}Content-Type: image/png\r\nContent-Length: {MEGABYTE * 7 // 2}\r\n\r\n".encode()
        )
        writer.write(bytes(MEGABYTE * 3))
        await until(lambda: served.composed.budget.taken == MEGABYTE * 3)
        assert [await infer(http, key, large) for key in KEYS] == [503, 200]
        writer.write(bytes(MEGABYTE // 2))
        assert (await answer(reader))[0] == 400
        assert await infer(http, KEYS[0], large) == 200
        assert served.composed.budget.of_owner == {}


async def test_frames_in_flight(data_dir):
    """A frame beyond the share of the session's owner is an error of that frame."""
    limits = {"max_inflight_mb": 4, "max_body_mb": 4}
    async with shared(data_dir, **limits) as (served, http):
        for key in KEYS:
            _, made = await asked_for(http, key)
            async with http.ws_connect(made["ws_url"], headers=of(key)) as socket:
                async with arriving(served, key, MEGABYTE * 2):
                    await socket.send_bytes(picture())
                    told = await socket.receive_json()
                    assert told["detail"] == "Too many request bytes of one caller are in flight"
                    assert told["retry_after"] == 1
                await until(lambda: served.composed.budget.of_owner == {})
                await socket.send_bytes(picture(form="JPEG") + bytes(MEGABYTE * 5 // 2))
                assert "detections" in await socket.receive_json()


async def test_a_message_that_arrives(data_dir):
    """It counts as its caller's from the first bytes on, and ends the connection beyond it."""
    limits = {"max_inflight_mb": 8, "max_body_mb": 4, "caller_share": 0.25}
    large = picture(form="JPEG") + bytes(MEGABYTE * 3)
    async with shared(data_dir, **limits) as (served, http):
        _, made = await asked_for(http, KEYS[0])
        async with arriving(served, KEYS[0], MEGABYTE):
            async with http.ws_connect(made["ws_url"], headers=of(KEYS[0])) as socket:
                await socket.send_bytes(large)
                assert (await socket.receive()).data == 1013
            assert await infer(http, KEYS[1], large) == 200
        await until(lambda: served.composed.budget.of_owner == {})
        async with http.ws_connect(made["ws_url"], headers=of(KEYS[0])) as socket:
            await socket.send_bytes(large)
            assert "detections" in await socket.receive_json()


async def test_a_body_above_the_share(data_dir):
    """Is answered where its caller has nothing else in flight, also on a head that is known."""
    limits = {"max_inflight_mb": 8, "max_body_mb": 4, "caller_share": 0.25}
    large = picture(form="JPEG") + bytes(MEGABYTE * 3)
    async with shared(data_dir, **limits) as (served, http):
        for key in KEYS * 3:
            assert await infer(http, key, large) == 200
        async with arriving(served, KEYS[0], MEGABYTE * 3) as (reader, writer):
            assert [await infer(http, key, large) for key in KEYS] == [503, 200]
            writer.write(bytes(1))
            assert (await answer(reader))[0] == 400
        assert await infer(http, KEYS[0], large) == 200
        assert served.composed.budget.of_owner == {}


@pytest.mark.parametrize("owner", [None, ANONYMOUS.id])
def test_nobody_has_no_share(owner):
    """What belongs to no caller with a key is held by the limit of all alone."""
    budget = Budget(100, share=0.5)
    BudgetShare(budget, owner).take(80)
    one = BudgetShare(budget, "key:one")
    with pytest.raises(Unavailable, match=r"^Too many request bytes are in flight$"):
        one.take(30)
    one.take(20)
    assert budget.of_owner == {"key:one": 20}
    one.give_back()
    assert (budget.of_owner, budget.taken) == ({}, 80)


def test_a_budget_is_full_at_its_limit():
    """All of it can be taken, to the byte, and then nothing more."""
    share = BudgetShare(Budget(100))
    share.take(100)
    with pytest.raises(Unavailable, match="Too many request bytes are in flight"):
        share.take(1)
    share.give_back()
    share.take(100)
